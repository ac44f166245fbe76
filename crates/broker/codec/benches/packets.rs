//! Nanoseconds per packet decoded and encoded.

fn main() {}
