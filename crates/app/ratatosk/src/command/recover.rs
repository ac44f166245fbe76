//! `ratatosk recover`: for a store that a plain start refuses because it is damaged.
//!
//! A node never starts with less than it had unless an operator has said so; this is how. What it
//! does is in `ratatosk-store`, `recover.rs`.

use std::process::ExitCode;

use crate::cause;
use crate::configuration::{Configuration, Sources};
use crate::exit::Code;
use crate::store;

pub(crate) fn run(sources: &Sources) -> anyhow::Result<ExitCode> {
    let configuration = Configuration::load(sources)?;
    let directory = &configuration.data_dir;
    let recovered = match store::recover(directory, configuration.memory_limit) {
        Ok(recovered) => recovered,
        Err(error) if store::needs_operator(&error) => {
            eprintln!("ratatosk: {}", cause::line(&error));
            return Ok(Code::Operator.into());
        }
        Err(error) => return Err(error),
    };
    let Some(damage) = recovered.damage else {
        println!("the store in {} is whole, and was left as it is", directory.display());
        return Ok(Code::Clean.into());
    };
    println!("damaged: {damage}");
    for path in recovered.set_aside {
        println!("set aside: {}", path.display());
    }
    match recovered.lost.is_empty() {
        true => println!("nothing is lost"),
        false => recovered.lost.iter().for_each(|lost| println!("lost: {lost}")),
    }
    println!("the node can be started");
    Ok(Code::Clean.into())
}
