//! Tars as no honest tool writes them, from raw headers.

/// Appends entries to a tar; nothing is checked.
#[derive(Clone, Debug, Default)]
pub(in crate::image) struct TestTar {
    bytes: Vec<u8>,
}

impl TestTar {
    pub(in crate::image) fn new() -> Self {
        Self::default()
    }

    /// A header with everything given, then `content` as it is, padded.
    pub(in crate::image) fn raw(
        mut self,
        name: &[u8],
        kind: u8,
        mode: u32,
        link: &[u8],
        size: u64,
        content: &[u8],
    ) -> Self {
        if name.len() > 100 {
            self = self.raw(b"././@LongLink", b'L', 0, b"", name.len() as u64 + 1, &[name, b"\0"].concat());
        }
        if link.len() > 100 {
            self = self.raw(b"././@LongLink", b'K', 0, b"", link.len() as u64 + 1, &[link, b"\0"].concat());
        }
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name[..name.len().min(100)]);
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"00000001750\0"); // 1000
        put(156, &[kind]);
        put(157, &link[..link.len().min(100)]);
        put(257, b"ustar  \0");
        put(329, b"0000000\0");
        put(337, b"0000000\0");
        seal(&mut header);
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(in crate::image) fn file(self, name: &str, content: &str) -> Self {
        self.raw(name.as_bytes(), b'0', 0o644, b"", content.len() as u64, content.as_bytes())
    }

    pub(in crate::image) fn file_mode(self, name: &str, mode: u32, content: &str) -> Self {
        self.raw(name.as_bytes(), b'0', mode, b"", content.len() as u64, content.as_bytes())
    }

    pub(in crate::image) fn dir(self, name: &str, mode: u32) -> Self {
        self.raw(name.as_bytes(), b'5', mode, b"", 0, b"")
    }

    pub(in crate::image) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(name.as_bytes(), b'2', 0o777, target.as_bytes(), 0, b"")
    }

    pub(in crate::image) fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(name.as_bytes(), b'1', 0o4777, target.as_bytes(), 0, b"")
    }

    pub(in crate::image) fn whiteout(self, name: &str) -> Self {
        self.file(name, "")
    }

    pub(in crate::image) fn device(mut self, name: &str, kind: u8, major: u32, minor: u32) -> Self {
        let at = self.bytes.len();
        self = self.raw(name.as_bytes(), kind, 0o640, b"", 0, b"");
        self.patch(at, 329, format!("{major:07o}\0").as_bytes());
        self.patch(at, 337, format!("{minor:07o}\0").as_bytes());
        self
    }

    /// pax records for the next entry.
    pub(in crate::image) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.raw(b"pax", b'x', 0o644, b"", body.len() as u64, &body)
    }

    /// Owner of the entry that was added last (which must be a plain one).
    pub(in crate::image) fn owned(mut self, uid: u32, gid: u32, content_bytes: usize) -> Self {
        let at = self.bytes.len() - 512 - content_bytes.next_multiple_of(512);
        self.patch(at, 108, format!("{uid:07o}\0").as_bytes());
        self.patch(at, 116, format!("{gid:07o}\0").as_bytes());
        self
    }

    pub(in crate::image) fn patch(&mut self, at: usize, offset: usize, bytes: &[u8]) {
        self.bytes[at + offset..at + offset + bytes.len()].copy_from_slice(bytes);
        seal(&mut self.bytes[at..at + 512]);
    }

    /// The position of the next header.
    pub(in crate::image) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// As it is so far.
    pub(in crate::image) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// With the two zero blocks.
    pub(in crate::image) fn done(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

/// Writes a header's checksum.
pub(in crate::image) fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
