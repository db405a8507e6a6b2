//! Compiles our two protocols with protox, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    // Encoded by protox itself: prost-types would drop options that it does not know (`debug_redact`).
    let mut cri = protox::Compiler::new(["proto"])?;
    cri.include_imports(true).include_source_info(true).open_file("runtime/v1/api.proto")?;
    fs::write(out.join("cri.descriptor"), cri.encode_file_descriptor_set())?;
    // Credentials must not be printable by accident: `cri/wire.rs` writes this one's `Debug` by hand.
    // An RPC that `cri/` does not write answers Unimplemented: the one place where that is said.
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .skip_debug([".runtime.v1.AuthConfig"])
        .compile_fds(cri.file_descriptor_set())?;

    let supervisor = protox::compile(["supervisor/v1/supervisor.proto"], ["proto"])?;
    tonic_prost_build::configure().build_server(false).build_client(false).compile_fds(supervisor)?;
    Ok(())
}
