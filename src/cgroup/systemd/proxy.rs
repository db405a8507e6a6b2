//! The methods and signals used of systemd's D-Bus interface (org.freedesktop.systemd1(5)).

use zbus::zvariant::{OwnedObjectPath, Value};

/// A property of a unit and its value.
pub(super) type Property<'a> = (&'a str, Value<'a>);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
pub(super) trait Manager {
    /// Without it systemd sends no signals.
    fn subscribe(&self) -> zbus::Result<()>;

    /// Gives the job that starts the unit.
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[Property<'_>],
        others: &[(&str, &[Property<'_>])],
    ) -> zbus::Result<OwnedObjectPath>;

    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: zbus::zvariant::ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}
