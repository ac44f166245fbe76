//! `ratatosk passwd`: users and their hashed passwords.
//!
//! The password comes from standard input: on a terminal it is asked for twice and not shown,
//! otherwise it is the first line. It never comes from the command line, which others on the
//! machine can read.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use ratatosk_plugin::passwd::{self, Edit, Schemes};
use ratatosk_plugin::secret::Secret;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::exit::Code;

/// A longer line is no password.
const LINE_BYTES_MAX: u64 = 70_000;

#[derive(Debug, Args)]
pub(crate) struct PasswdArgs {
    /// The password file; made if it is missing
    file: PathBuf,
    /// The user whose password is set; its new password is read from standard input
    #[arg(required_unless_present = "list")]
    user: Option<String>,
    /// Remove the user
    #[arg(short = 'D', long, conflicts_with = "list")]
    delete: bool,
    /// List the users
    #[arg(short, long, conflicts_with = "user")]
    list: bool,
    /// What is stored: for passwords in CONNECT, for SCRAM, or for both
    #[arg(long, value_enum, default_value_t = Scheme::Argon2)]
    scheme: Scheme,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scheme {
    Argon2,
    Scram,
    Both,
}

pub(crate) fn run(args: &PasswdArgs) -> anyhow::Result<ExitCode> {
    let Some(user) = &args.user else {
        for (user, schemes) in passwd::list(&args.file)? {
            println!("{user}\t{}", name(schemes));
        }
        return Ok(Code::Clean.into());
    };
    let edit = if args.delete {
        passwd::remove(&args.file, user)?
    } else {
        let schemes = match args.scheme {
            Scheme::Argon2 => Schemes::Argon2,
            Scheme::Scram => Schemes::Scram,
            Scheme::Both => Schemes::Both,
        };
        passwd::set(&args.file, user, &read_password()?, schemes)?
    };
    match edit {
        Edit::Created => println!("user {user} added"),
        Edit::Updated => println!("password of {user} changed"),
        Edit::Removed => println!("user {user} removed"),
        Edit::Unchanged => bail!("there is no user {user} in {}", args.file.display()),
    }
    Ok(Code::Clean.into())
}

const fn name(schemes: Schemes) -> &'static str {
    match schemes {
        Schemes::Argon2 => "argon2",
        Schemes::Scram => "scram",
        Schemes::Both => "argon2 scram",
    }
}

fn read_password() -> anyhow::Result<Secret> {
    if !io::stdin().is_terminal() {
        return read_line();
    }
    let first = ask("password: ")?;
    if first != ask("again: ")? {
        bail!("the two passwords differ");
    }
    Ok(first)
}

/// Asks with the terminal's echo off.
fn ask(prompt: &str) -> anyhow::Result<Secret> {
    let input = io::stdin();
    let shown = tcgetattr(&input).context("cannot read the terminal's mode")?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    eprint!("{prompt}");
    io::stderr().flush()?;
    tcsetattr(&input, OptionalActions::Flush, &hidden).context("cannot hide the password")?;
    let line = read_line();
    let restored = tcsetattr(&input, OptionalActions::Flush, &shown);
    eprintln!();
    restored.context("cannot restore the terminal's mode")?;
    line
}

fn read_line() -> anyhow::Result<Secret> {
    let mut line = Vec::new();
    let mut input = io::Read::take(io::stdin().lock(), LINE_BYTES_MAX);
    input.read_until(b'\n', &mut line).context("cannot read the password")?;
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    if line.is_empty() {
        bail!("no password was given");
    }
    Ok(Secret::new(line))
}
