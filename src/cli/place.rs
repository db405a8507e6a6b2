//! Where the daemon is: the arguments that all commands share.

use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use crate::config::{Flags, Listen, Loaded, load};

/// Where the daemon is.
#[derive(Args, Debug)]
pub(super) struct Place {
    /// Configuration; drop-ins are in the folder conf.d beside it [default: /etc/pintle/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of images and whatever survives a reboot
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Folder of sockets and records of running pods
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Address of the CRI: unix:///path
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Listen>,
}

impl Place {
    /// The configuration, or the code to end with.
    pub(super) fn load(self, log_level: Option<String>) -> Result<Loaded, Exit> {
        let flags = Flags { root: self.root, state: self.state, listen: self.listen, log_level };
        load(self.config.as_deref(), &flags).map_err(|error| Exit::CONFIG.because(&error))
    }
}
