//! cri

mod wire;
