//! Makes the services of `proto/` into Rust.

fn main() -> anyhow::Result<()> {
    ratatosk_rpc_build::compile("proto", &["dict.proto"])
}
