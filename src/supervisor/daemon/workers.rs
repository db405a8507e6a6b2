//! Image workers from the zygote.

use std::io;

use super::zygote::{Wanted, Zygote};
use crate::image::{Worker, Workers};

impl Workers for Zygote {
    fn fork(&self) -> io::Result<Worker> {
        let forked = self.ask_blocking(Wanted::ImageWorker).map_err(io::Error::other)?;
        let (connection, process) = forked.attended()?;
        Ok(Worker::new(connection, process))
    }
}
