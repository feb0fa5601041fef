//! Compiles the `.proto` files with protox, so that no `protoc` is needed.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use protox::prost::Message;

const FILES: [&str; 3] =
    ["shardexec/v1/shard.proto", "shardexec/v1/fleet.proto", "shardexec/v1/blocks.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
