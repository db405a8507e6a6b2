//! The size of a terminal.

/// The size of a terminal in characters; neither is 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

impl TerminalSize {
    /// `None` for what no terminal has: nothing, or more than the kernel can hold.
    pub fn new(columns: impl TryInto<u16>, rows: impl TryInto<u16>) -> Option<Self> {
        match (columns.try_into(), rows.try_into()) {
            (Ok(columns @ 1..), Ok(rows @ 1..)) => Some(Self { columns, rows }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_a_size_that_the_kernel_can_hold() {
        assert_eq!(TerminalSize::new(80_u32, 24_u32), Some(TerminalSize { columns: 80, rows: 24 }));
        assert!(TerminalSize::new(65_535_u64, 65_535_u64).is_some());
        assert!(
            [(0_u64, 24_u64), (80, 0), (65_536, 24), (80, u64::MAX)]
                .into_iter()
                .all(|(columns, rows)| TerminalSize::new(columns, rows).is_none())
        );
    }
}
