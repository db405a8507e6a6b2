//! Compiles our two protocols with protox, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let cri = protox::compile(["runtime/v1/api.proto"], ["proto"])?;
    fs::write(out.join("cri.descriptor"), cri.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(cri)?;

    let supervisor = protox::compile(["supervisor/v1/supervisor.proto"], ["proto"])?;
    tonic_prost_build::configure().build_server(false).build_client(false).compile_fds(supervisor)?;
    Ok(())
}
