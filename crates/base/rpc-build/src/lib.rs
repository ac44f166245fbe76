//! Makes the services of a `.proto` into Rust, from a build script and without protoc.
//!
//! Of each service come a trait for its server, a function that makes a `ratatosk_rpc::Service` of
//! an implementation, and a client; of each message a struct whose bytes are `Bytes`. A method
//! with one question and one answer is unary, or a pipeline if it says so:
//!
//! ```text
//! import "ratatosk/rpc/options.proto";
//! rpc Add(Amount) returns (Total) { option (ratatosk.rpc.pipeline) = true; }
//! ```
//!
//! A method with `stream` on both sides is a stream. With `stream` on one side only it is refused:
//! a stream has credit, and credit goes against the messages.

mod generator;
mod kind;

use std::path::Path;

use anyhow::{Context, Result};

use crate::generator::Generator;
use crate::kind::kinds;

/// Where `ratatosk/rpc/options.proto` is.
const OWN_PROTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");

/// Writes a file `<package>.rs` for each package of `files` into the build script's output folder,
/// and has the script run again when they change. `files` are relative to `folder`.
///
/// # Errors
/// When a file cannot be read, says what cannot be, or has a method of no kind.
pub fn compile(folder: impl AsRef<Path>, files: &[&str]) -> Result<()> {
    let folder = folder.as_ref();
    println!("cargo::rerun-if-changed={}", folder.display());
    generate(prost_build::Config::new(), folder, files)
}

/// As [`compile`], into another folder.
///
/// # Errors
/// As [`compile`].
pub fn compile_into(folder: impl AsRef<Path>, files: &[&str], out: &Path) -> Result<()> {
    let mut config = prost_build::Config::new();
    config.out_dir(out);
    generate(config, folder.as_ref(), files)
}

fn generate(mut config: prost_build::Config, folder: &Path, files: &[&str]) -> Result<()> {
    let mut compiler = protox::Compiler::new([folder, Path::new(OWN_PROTOS)])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    let kinds = kinds(&compiler.descriptor_pool())?;
    let mut descriptors = compiler.file_descriptor_set();
    // What speaks of descriptors is for us; no code is made of it.
    descriptors.file.retain(|file| !matches!(file.package(), "google.protobuf" | "ratatosk.rpc"));
    config.bytes(["."]).service_generator(Box::new(Generator::new(kinds)));
    config.compile_fds(descriptors).context("the generated code cannot be written")
}
