//! Which kind each method is, by its shape and its options.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use prost_reflect::{DescriptorPool, MethodDescriptor};

/// The option that makes a method a pipeline.
const PIPELINE: &str = "ratatosk.rpc.pipeline";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    Pipeline,
    Stream,
}

/// The kinds of all methods, by their full names.
pub(crate) fn kinds(pool: &DescriptorPool) -> Result<BTreeMap<String, Kind>> {
    let mut kinds = BTreeMap::new();
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let is_pipeline = is_pipeline(pool, &method);
        let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
            (false, false) if is_pipeline => Kind::Pipeline,
            (false, false) => Kind::Unary,
            (true, true) if is_pipeline => {
                bail!("{}: a pipeline has one question and one answer", method.full_name())
            }
            (true, true) => Kind::Stream,
            _ => bail!("{}: a stream has messages both ways", method.full_name()),
        };
        kinds.insert(method.full_name().to_owned(), kind);
    }
    Ok(kinds)
}

fn is_pipeline(pool: &DescriptorPool, method: &MethodDescriptor) -> bool {
    let Some(option) = pool.get_extension_by_name(PIPELINE) else { return false };
    method.options().get_extension(&option).as_bool().unwrap_or_default()
}
