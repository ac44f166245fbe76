//! Makes the service of `proto/` into Rust.

fn main() -> anyhow::Result<()> {
    ratatosk_rpc_build::compile("proto", &["inbox.proto"])
}
