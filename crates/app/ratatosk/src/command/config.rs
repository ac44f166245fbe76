//! `ratatosk config check` and `ratatosk config show`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::command::{ConfigurationArgs, load};
use crate::configuration::Origins;
use crate::exit::Code;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Says what is wrong with the configuration; exit code 3 if anything is
    Check(ConfigurationArgs),
    /// Prints the effective configuration, without secrets
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    /// Says where each value came from
    #[arg(long)]
    origin: bool,
}

pub(crate) fn run(command: &Command, before: &ConfigurationArgs) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(args) => {
            load(&[before.clone(), args.clone()])?;
            println!("the configuration is valid");
        }
        Command::Show(args) => {
            let configuration = load(&[before.clone(), args.configuration.clone()])?;
            let origins = if args.origin { Origins::Shown } else { Origins::Hidden };
            let text = configuration.effective.render(origins);
            std::io::stdout().write_all(text.as_bytes())?;
        }
    }
    Ok(Code::Clean.into())
}
