//! The slots in which launches store the pids of the processes that they make (`sys::pids`). A launch has its slot for
//! as long as one of its processes may write to it.

use std::{collections::VecDeque, io};

use crate::{
    model::{Failure, Stage},
    sys::pids::{Page, SLOTS, Slot},
};

/// The page of slots, and which of them are free.
#[derive(Debug)]
pub(super) struct PidSlots {
    page: Page,
    /// Indexes of the free slots, the one that was freed last at the end: so a slot is reused as late as possible.
    free: VecDeque<usize>,
}

impl PidSlots {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { page: Page::new()?, free: (0..SLOTS).collect() })
    }

    /// A slot for one launch.
    pub(super) fn take(&mut self) -> Result<Slot, Failure> {
        let text = || format!("{SLOTS} processes are being started in this pod at once");
        let index = self.free.pop_front().ok_or_else(|| Failure::new(Stage::Limit, "pod", text()))?;
        Ok(self.page.clear(index))
    }

    /// Frees the slot of a launch that is over or whose processes are dead.
    pub(super) fn give_back(&mut self, slot: Slot) {
        self.free.push_back(slot.index());
    }
}

/// The error of a launch whose last fork failed.
pub(super) fn fork_failure(object: &str, slot: Slot) -> Option<Failure> {
    let error = slot.pid().err()?;
    Some(Failure::io(Stage::Launch, format!("{object}: fork"), "", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_slot_for_each_launch_until_there_is_none() {
        let mut pid_slots = PidSlots::new().unwrap();
        let slots: Vec<Slot> = (0..SLOTS).map(|_| pid_slots.take().unwrap()).collect();
        assert_eq!(pid_slots.take().unwrap_err().stage, Stage::Limit);
        slots[7].store(&77.try_into());
        pid_slots.give_back(slots[7]);
        let again = pid_slots.take().unwrap();
        assert_eq!((again.index(), again.pid().unwrap()), (7, None));
    }

    #[test]
    fn a_fork_that_failed_says_why() {
        let mut pid_slots = PidSlots::new().unwrap();
        let slot = pid_slots.take().unwrap();
        assert_eq!(fork_failure("exec", slot), None);
        slot.store(&Err(io::Error::from_raw_os_error(11)));
        let said = fork_failure("exec", slot).unwrap().to_string();
        assert_eq!(
            said,
            "could not create container exec: fork (Resource temporarily unavailable (os error 11))"
        );
    }
}
