//! The nouns every room shares: ids, what a caller asked for, what became of it.
//!
//! Invariant: nothing here does I/O, reads a clock or knows a wire format. Values are checked once, at the
//! door (`cri/parse`), so whatever is held in these types is already known to be well formed.

mod cdi;
mod container;
mod exit;
mod failure;
mod handler;
mod id;
mod idmap;
mod image;
mod plan;
mod pod;
mod process;
mod resources;
mod selinux;
pub mod signal;
mod terminal;
mod time;

pub use cdi::{CdiDeviceName, check_cdi_kind};
pub use container::{
    ContainerConfig, ContainerMetadata, DeviceForm, DeviceMapping, ImageVolume, Mount, MountOptions,
    Propagation,
};
pub use exit::{Exit, ExitReason};
pub use failure::{Failure, Stage};
pub use handler::Handler;
pub use id::{BadId, BadIdPrefix, ContainerId, ID_PREFIX_BYTES_MAX, IdPrefix, PodId};
pub use idmap::{IdMap, IdRange, UserMode};
pub use image::{Digest, ImageConfig, RootfsLayers};
pub use plan::{ContainerPlan, DeviceNode, DeviceRule, LogPath, PodPlan, ProcessPlan, Volume, VolumeSource};
pub use pod::{
    Dns, IpcMode, NamespaceModes, NetworkMode, PidMode, PodConfig, PodMetadata, PortMapping, PortProtocol,
};
pub use process::{
    AppArmorChoice, Capabilities, GroupsPolicy, ResolvedUser, SeccompChoice, Security, UserChoice,
};
pub use resources::{HugepageLimit, PodLimits, Resources};
pub use selinux::{BadLabel, Label, LabelParts, Level, PodLabels, check_label_name};
pub use terminal::TerminalSize;
pub use time::UnixNanos;
