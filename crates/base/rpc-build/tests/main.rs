//! What is made of a `.proto`, and which are refused. That the code compiles and works is seen by
//! `ratatosk-rpc-example` and the tests of `ratatosk-rpc`.

use std::path::Path;

use ratatosk_testkit::scratch::Scratch;

/// What is generated for a service with these methods.
fn generated(methods: &str) -> Result<String, String> {
    let folder = Scratch::new("rpc-build");
    let folder: &Path = folder.path();
    let text = format!(
        "syntax = \"proto3\"; package a.b; import \"ratatosk/rpc/options.proto\";\n\
         message Q {{ bytes load = 1; }} message A {{}}\n\
         // Tells.\nservice Teller {{ {methods} }}"
    );
    std::fs::write(folder.join("teller.proto"), text).expect("room");
    ratatosk_rpc_build::compile_into(folder, &["teller.proto"], folder)
        .map_err(|error| format!("{error:#}"))?;
    Ok(std::fs::read_to_string(folder.join("a.b.rs")).expect("a file for the package"))
}

/// RPC-007: the kind of a method follows from its shape and its option.
#[test]
fn the_kind_of_a_method_is_what_the_proto_says() {
    let cases = [
        ("rpc Tell(Q) returns (A);", "Unary"),
        ("rpc Tell(Q) returns (A) { option (ratatosk.rpc.pipeline) = true; }", "Pipeline"),
        ("rpc Tell(Q) returns (A) { option (ratatosk.rpc.pipeline) = false; }", "Unary"),
        ("rpc Tell(stream Q) returns (stream A);", "Stream"),
    ];
    for (method, kind) in cases {
        let code = generated(method).expect("it is right");
        assert!(
            code.contains(&format!("\"a.b.Teller\", \"Tell\", ::ratatosk_rpc::MethodKind::{kind}"))
        );
        assert!(code.contains("pub trait Teller"), "{code}");
        assert!(code.contains("::prost::bytes::Bytes"), "bytes are shared: {code}");
        assert!(code.contains("Tells."), "comments are kept: {code}");
    }
}

#[test]
fn methods_of_no_kind_are_refused_by_name() {
    let cases = [
        ("rpc Tell(stream Q) returns (A);", "a stream has messages both ways"),
        ("rpc Tell(Q) returns (stream A);", "a stream has messages both ways"),
        (
            "rpc Tell(stream Q) returns (stream A) { option (ratatosk.rpc.pipeline) = true; }",
            "a pipeline has one question and one answer",
        ),
    ];
    for (method, expected) in cases {
        let error = generated(method).expect_err("it is wrong");
        assert!(error.contains("a.b.Teller.Tell") && error.contains(expected), "{error}");
    }
    let error = generated("rpc Tell(Q) returns (Nothing);").expect_err("it is wrong");
    assert!(error.contains("Nothing"), "{error}");
}
