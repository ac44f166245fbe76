//! Checks and chores of the repository: `cargo xtask tidy | verify | fix | test | clients | count | audit`.
//!
//! `tidy` and `verify` only read. `fix` writes what can be derived. `test` runs every test and
//! installs the foreign MQTT clients that the tests of processes use. `audit` breaks the code on
//! purpose, in a copy, to see whether the tests notice. `count` counts instructions.
#![allow(
    clippy::disallowed_methods,
    reason = "a chore reads the clock and the environment; nothing here ships"
)]

mod audit;
mod behaviours;
mod clients;
mod commands;
mod copy;
mod dependencies;
mod edges;
mod instructions;
mod manifests;
mod mutation;
mod normative;
mod ratchet;
mod source;
mod table;
mod text_rules;
mod tidy;
mod unsafe_code;
mod words;
mod workspace;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::instructions::Use;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  tidy      check the house rules; reads only
  verify    format, clippy, tidy, documentation; reads only
  fix       format and write what is derived (tables, ratchets)
  test      install the foreign clients, run every test, print the total
  clients   install the foreign clients only
  count     [--write]: instructions of the hot cores, against the baseline
  audit     --seed N [--count 20] [--mutate] [ID…]: pick behaviours and try to break them
";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Carries out the command; false says that a check failed and has been reported.
fn run() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = arguments.split_first() else {
        eprint!("{USAGE}");
        return Ok(false);
    };
    let root = workspace::root()?;
    if command != "audit"
        && command != "count"
        && let Some(extra) = rest.first()
    {
        bail!("{command} takes no argument, got {extra}");
    }
    match command.as_str() {
        "tidy" => tidy::report(&root),
        "verify" => commands::verify(&root),
        "fix" => commands::fix(&root),
        "test" => commands::test(&root),
        "clients" => clients::install(&root).map(|()| true),
        "count" => match rest {
            [] => instructions::run(&root, Use::Compare),
            [only] if only == "--write" => instructions::run(&root, Use::Write),
            _ => bail!("count takes --write or nothing"),
        },
        "audit" => audit::run(&root, &audit::Options::parse(rest).context("audit")?),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(true)
        }
        other => bail!("unknown command {other}\n{USAGE}"),
    }
}
