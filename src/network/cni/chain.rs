//! The plugins of a network, asked one after another.

use serde_json::Value;
use tokio::time::Instant;

use super::{
    cache::Attached,
    config::{NetworkList, Version, WITH_CHECK, WITH_STATUS},
    invocation::{self, Folders, Invocation, Valid, Verb},
    plugin::{Fault, Plugins},
    result,
};
use crate::network::Error;

/// The plugins of one list, and what they need to be called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain<'a> {
    pub(super) plugins: &'a Plugins,
    pub(super) list: &'a NetworkList,
}

impl Chain<'_> {
    /// ADD, in order; each gets the result of the one before. The last result is that of the list.
    ///
    /// # Errors
    /// Of the first that fails; DEL is to follow.
    pub(super) async fn add(self, attached: &Attached) -> Result<Value, Error> {
        let deadline = self.plugins.deadline();
        let mut previous = None;
        for plugin in &self.list.plugins {
            let subject = &attached.subject;
            let call =
                invocation::for_pod(Verb::Add, self.list, plugin, subject, previous.as_ref(), self.folders());
            let stdout = self.call(&call, &subject.container, deadline).await?;
            previous = Some(result::parse(&stdout).map_err(|error| failed(&call, error.into()))?);
        }
        previous.ok_or_else(|| Error::NotReady("the CNI configuration has no plugins".into()))
    }

    /// DEL, in reverse order: what was given last is taken first.
    ///
    /// # Errors
    /// Of the first that fails. The rest is not asked: an address must not be free while rules still lead to it.
    pub(super) async fn del(self, attached: &Attached) -> Result<(), Error> {
        let deadline = self.plugins.deadline();
        let (subject, result) = (&attached.subject, attached.result.as_ref());
        for plugin in self.list.plugins.iter().rev() {
            let call = invocation::for_pod(Verb::Del, self.list, plugin, subject, result, self.folders());
            self.call(&call, &subject.container, deadline).await?;
        }
        Ok(())
    }

    /// CHECK, in order, where the version has it and the configuration does not switch it off.
    ///
    /// # Errors
    /// Of the first plugin that finds its part of the attachment gone.
    pub(super) async fn check(self, attached: &Attached) -> Result<(), Error> {
        if self.list.version < WITH_CHECK || self.list.disable_check {
            return Ok(());
        }
        let deadline = self.plugins.deadline();
        let (subject, result) = (&attached.subject, attached.result.as_ref());
        for plugin in &self.list.plugins {
            let call = invocation::for_pod(Verb::Check, self.list, plugin, subject, result, self.folders());
            self.call(&call, &subject.container, deadline).await?;
        }
        Ok(())
    }

    /// GC, where the version has it and the configuration does not switch it off. All are asked; of the failures the
    /// first is given.
    ///
    /// # Errors
    /// Of the first that fails.
    pub(super) async fn gc(self, valid: &[Valid]) -> Result<(), Error> {
        if self.list.version < WITH_STATUS || self.list.disable_gc {
            return Ok(());
        }
        let deadline = self.plugins.deadline();
        let mut first = Ok(());
        for plugin in &self.list.plugins {
            let call = invocation::for_gc(self.list, plugin, valid, self.folders());
            let called = self.call(&call, &self.list.name, deadline).await;
            first = first.and(called.map(drop));
        }
        first
    }

    /// STATUS, where the version has it.
    ///
    /// # Errors
    /// Of the first plugin that could not serve an ADD now.
    pub(super) async fn status(self) -> Result<(), Error> {
        if self.list.version < WITH_STATUS {
            return Ok(());
        }
        let deadline = self.plugins.deadline();
        for plugin in &self.list.plugins {
            let call = invocation::for_status(self.list, plugin, self.folders());
            self.call(&call, &self.list.name, deadline).await?;
        }
        Ok(())
    }

    /// VERSION: each program knows the version of the list.
    ///
    /// # Errors
    /// Of the first that does not.
    pub(super) async fn versions(self) -> Result<(), Error> {
        let deadline = self.plugins.deadline();
        for plugin in &self.list.plugins {
            let call = invocation::for_version(&plugin.program, self.folders());
            let stdout = self.call(&call, &self.list.name, deadline).await?;
            let known = result::versions(&stdout).map_err(|error| failed(&call, error.into()))?;
            if !known.contains(&self.list.version) {
                let known: Vec<_> = known.iter().map(Version::to_string).collect();
                let wanted = self.list.version;
                let words = format!("it knows the versions {} of CNI, and not {wanted}", known.join(", "));
                return Err(failed(&call, Fault::Result(words)));
            }
        }
        Ok(())
    }

    fn folders(&self) -> Folders<'_> {
        Folders(self.plugins.path())
    }

    async fn call(&self, call: &Invocation, about: &str, deadline: Instant) -> Result<Vec<u8>, Error> {
        self.plugins.call(call, about, deadline).await.map_err(|fault| failed(call, fault))
    }
}

fn failed(call: &Invocation, source: Fault) -> Error {
    Error::Plugin { program: call.program.clone(), verb: call.verb.as_str(), source }
}
