//! Tests of the scanner: literals, comments, functions, test regions.

use super::Source;

fn code(text: &str) -> String {
    Source::new("crates/base/a/src/lib.rs", text).code
}

#[test]
fn comments_and_the_insides_of_literals_are_blanked() {
    assert_eq!(code("a(); // fn b()"), "a();          ");
    assert_eq!(code("a(/* /* x */ y */ 1)"), "a(                 1)".replace("   1", "  1"));
    assert_eq!(code(r#"a("fn \" {");"#), r#"a("       ");"#);
    assert_eq!(code(r##"a(r#"fn " {"#);"##), r##"a(r#"      "#);"##);
    assert_eq!(code(r#"a(r"x\");"#), r#"a(r"  ");"#);
    assert_eq!(code("a('{', '\\'', b'x', '\\u{7b}')"), "a(' ', '  ', b' ', '      ')");
}

#[test]
fn lifetimes_are_code() {
    assert_eq!(code("fn a<'a>(b: &'a str) {}"), "fn a<'a>(b: &'a str) {}");
}

#[test]
fn blanking_keeps_every_byte_in_its_place() {
    let text = "// ä\nlet a = \"ö\";\n/* ü\n */ let b = 'é';\n";
    let source = Source::new("crates/base/a/src/lib.rs", text);
    assert_eq!(source.code.len(), text.len());
    assert_eq!(source.comments.len(), text.len());
    assert_eq!(source.code.lines().count(), text.lines().count());
    assert!(source.comments.contains("// ä"));
    assert!(!source.comments.contains("let"));
}

#[test]
fn functions_are_found_with_their_lengths() {
    let text = "fn a() {\n  if x { y }\n}\n\ntrait T {\n  fn b(&self);\n  fn c(x: [u8; 2]) -> u8 { 1 }\n}\ntype F = fn(u8) -> u8;\n";
    let source = Source::new("crates/base/a/src/lib.rs", text);
    let found: Vec<(&str, usize, usize)> = source
        .functions
        .iter()
        .map(|function| (function.name.as_str(), function.line, function.line_count))
        .collect();
    assert_eq!(found, [("a", 1, 3), ("c", 7, 1)]);
}

#[test]
fn tests_are_found_with_the_first_line_of_their_documentation() {
    let text = "\
/// MQTT-001: one.
/// More.
#[test]
fn plain() {}

/// Nothing.
fn not_a_test() {}

/// MQTT-002: two.
#[tokio::test(
    flavor = \"current_thread\",
)]
#[allow(clippy::all)]
async fn asynchronous() {}

#[test]
fn undocumented() {}
";
    let source = Source::new("crates/base/a/src/lib.rs", text);
    let found: Vec<(&str, Option<&str>)> =
        source.tests().map(|test| (test.name.as_str(), test.first_doc.as_deref())).collect();
    assert_eq!(
        found,
        [
            ("plain", Some("MQTT-001: one.")),
            ("asynchronous", Some("MQTT-002: two.")),
            ("undocumented", None),
        ]
    );
}

#[test]
fn test_modules_do_not_count_as_shipped_lines() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n";
    let source = Source::new("crates/base/a/src/lib.rs", text);
    assert_eq!(source.shipped_line_count(), 2);
    let text = "fn a() {}\n#[cfg(not(test))]\nmod x {\n  fn b() {}\n}\n";
    assert_eq!(Source::new("crates/base/a/src/lib.rs", text).shipped_line_count(), 5);
}

#[test]
fn files_of_tests_do_not_count_as_shipped() {
    for path in ["crates/a/b/tests/main.rs", "crates/a/b/src/x_test.rs", "crates/a/b/src/tests.rs"]
    {
        assert_eq!(Source::new(path, "fn a() {}\n").shipped_line_count(), 0, "{path}");
    }
    assert_eq!(Source::new("crates/a/b/src/latest.rs", "fn a() {}\n").shipped_line_count(), 1);
}

#[test]
fn out_of_line_test_modules_are_resolved() {
    let source = Source::new("crates/a/b/src/tree.rs", "#[cfg(test)]\nmod model;\nmod real;\n");
    assert_eq!(source.test_module_paths(), ["crates/a/b/src/tree/model"]);
    let model = Source::new("crates/a/b/src/tree/model.rs", "");
    assert!(model.is_module("crates/a/b/src/tree/model"));
    assert!(!model.is_module("crates/a/b/src/tree/mod"));
    let root = Source::new("crates/a/b/src/lib.rs", "#[cfg(test)]\nmod model;\n");
    assert_eq!(root.test_module_paths(), ["crates/a/b/src/model"]);
}
