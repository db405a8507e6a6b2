//! Tests of unpacking: whole tar streams into directories of a real file system.

use std::{
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::super::{testtar, testtar::TestTar};
use super::*;
use crate::image::folder;

const LIMITS: Limits = Limits { file_bytes_max: 1 << 30 };

/// A folder with a layer to be, `fs`, and beside it what no tar may touch.
struct Ground {
    folder: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("fs")).unwrap();
        std::fs::create_dir(folder.path().join("canary")).unwrap();
        std::fs::write(folder.path().join("canary/secret"), "secret").unwrap();
        Self { folder }
    }

    fn fs(&self) -> PathBuf {
        self.folder.path().join("fs")
    }

    fn canary(&self) -> String {
        self.folder.path().join("canary").to_str().unwrap().into()
    }

    fn unpack(&self, tar: &[u8]) -> Result<Unpacked, LayerError> {
        let unpacked = unpack(&mut Archive::new(tar), folder::open(&self.fs()).unwrap(), LIMITS)?;
        mark_opaque(folder::open(&self.fs()).unwrap(), &unpacked.opaque)?;
        Ok(unpacked)
    }

    /// Everything about the canary that a tar could change.
    fn state(&self) -> Vec<(PathBuf, u32, u32, i64, i64, u64)> {
        let paths = ["", "canary", "canary/secret"].map(|path| self.folder.path().join(path));
        let names = |path: &Path| std::fs::read_dir(path).map_or(0, Iterator::count) as u64;
        paths
            .into_iter()
            .map(|path| {
                let m = std::fs::symlink_metadata(&path).unwrap();
                let size = if m.is_dir() { names(&path) } else { m.size() + m.nlink() * 1_000_000 };
                (path, m.mode(), m.uid(), m.mtime(), m.mtime_nsec(), size)
            })
            .collect()
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn no_name_and_no_link_leads_out() {
    let ground = Ground::new();
    let canary = ground.canary();
    let chain = (0..41).fold(TestTar::new().symlink("l0", &canary), |tar, n| {
        tar.symlink(&format!("l{}", n + 1), &format!("l{n}"))
    });
    let tars: Vec<(&str, TestTar)> = vec![
        ("dot dot", TestTar::new().file("../canary/x", "evil")),
        ("dot dot inside", TestTar::new().dir("a", 0o755).file("a/../../canary/x", "evil")),
        ("absolute", TestTar::new().file(&format!("{canary}/x"), "evil")),
        ("link then file", TestTar::new().symlink("d", &canary).file("d/x", "evil")),
        ("relative link then file", TestTar::new().symlink("d", "../canary").file("d/secret", "evil")),
        ("link to a file", TestTar::new().symlink("f", &format!("{canary}/secret")).file("f", "evil")),
        ("link then directory", TestTar::new().symlink("d", &canary).dir("d", 0o777).file("d/x", "evil")),
        ("link then whiteout", TestTar::new().symlink("d", &canary).whiteout("d/.wh.secret")),
        ("link then opaque", TestTar::new().symlink("d", &canary).whiteout("d/.wh..wh..opq")),
        ("hard link out", TestTar::new().hardlink("h", &format!("{canary}/secret")).file("h", "evil")),
        ("hard link by dot dot", TestTar::new().hardlink("h", "../canary/secret")),
        ("hard link through a link", TestTar::new().symlink("d", &canary).hardlink("h", "d/secret")),
        ("hard link to a link", {
            TestTar::new().symlink("s", &format!("{canary}/secret")).hardlink("h", "s").file("h", "evil")
        }),
        ("two links and a hard link", {
            TestTar::new()
                .dir("a", 0o755)
                .symlink("a/b", "..")
                .symlink("c", "a/b/..")
                .hardlink("h", "c/canary/secret")
        }),
        ("chain of links", chain.file("l41/x", "evil")),
        ("NUL", TestTar::new().pax(&[("path", b"a\0/../../canary/x")]).file("a", "evil")),
        ("device then through it", TestTar::new().device("n", b'3', 1, 3).file("n/x", "evil")),
        ("file then through it", TestTar::new().file("f", "").file("f/x", "evil")),
    ];
    let before = ground.state();
    for (what, tar) in tars {
        let _ = std::fs::remove_dir_all(ground.fs());
        std::fs::create_dir(ground.fs()).unwrap();
        let before = ground.state();
        let _ = ground.unpack(&tar.done());
        assert_eq!(ground.state(), before, "{what}");
        for entry in walk(&ground.fs()) {
            let metadata = entry.symlink_metadata().unwrap();
            assert!(!metadata.is_file() || read(entry.clone()) != "secret", "{what}: {}", entry.display());
        }
    }
    assert_eq!(ground.state()[1..], before[1..]);
}

fn walk(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}

#[test]
fn a_layer_is_what_its_tar_says() {
    if !is_root() {
        return;
    }
    let ground = Ground::new();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let tar = TestTar::new()
        .dir("./", 0o755)
        .dir("bin/", 0o1777)
        .file_mode("bin/su", 0o4755, "root me")
        .owned(7, 8, 7)
        .symlink("sh", "bin/su")
        .hardlink("bin/same", "./bin/su")
        .device("null", b'3', 1, 3)
        .device("disk", b'4', 8, 1)
        .raw(b"pipe", b'6', 0o600, b"", 0, b"")
        .pax(&[
            ("SCHILY.xattr.user.color", b"red"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"evil"),
            ("mtime", b"1234.5"),
        ])
        .file("ping", "ping")
        .raw(b"label", b'V', 0, b"", 0, b"")
        .done();
    let unpacked = ground.unpack(&tar).unwrap();
    assert_eq!((unpacked.implied, unpacked.links), (vec![], vec![]));

    let su = std::fs::symlink_metadata(ground.fs().join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.nlink()), (0o4755, 7, 8, 2));
    assert_eq!((su.mtime(), su.size()), (1000, 7));
    let bin = std::fs::metadata(ground.fs().join("bin")).unwrap();
    assert_eq!((bin.mode() & 0o7777, bin.mtime()), (0o1777, 1000));
    assert_eq!(std::fs::read_link(ground.fs().join("sh")).unwrap(), Path::new("bin/su"));
    let null = std::fs::symlink_metadata(ground.fs().join("null")).unwrap();
    assert!(null.file_type().is_char_device() && null.rdev() == fs::makedev(1, 3));
    assert_eq!(null.mode() & 0o7777, 0o640);
    assert!(std::fs::symlink_metadata(ground.fs().join("disk")).unwrap().file_type().is_block_device());
    assert!(std::fs::symlink_metadata(ground.fs().join("pipe")).unwrap().file_type().is_fifo());
    assert!(!ground.fs().join("label").exists());

    let ping = folder_file(&ground.fs().join("ping"));
    let mut value = [0_u8; 64];
    assert_eq!(fs::fgetxattr(&ping, "user.color", &mut value), Ok(3));
    assert_eq!(fs::fgetxattr(&ping, "security.capability", &mut value), Ok(20));
    for dropped in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        assert_eq!(fs::fgetxattr(&ping, dropped, &mut value), Err(Errno::NODATA), "{dropped}");
    }
    let ping = std::fs::metadata(ground.fs().join("ping")).unwrap();
    assert_eq!((ping.mtime(), ping.mtime_nsec()), (1234, 500_000_000));
}

fn folder_file(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

#[test]
fn whiteouts_hide_lower_layers_and_nothing_else() {
    if !is_root() {
        return;
    }
    let ground = Ground::new();
    let tar = TestTar::new()
        .whiteout("gone")
        .whiteout(".wh.gone2")
        .dir("opaque", 0o755)
        .file("opaque/new", "new")
        .whiteout("opaque/.wh..wh..opq")
        .whiteout(".wh.back")
        .file("back/file", "x")
        .whiteout(".wh.back2")
        .dir("back2", 0o700)
        .file("kept", "kept")
        .whiteout(".wh.kept")
        .dir("dir", 0o755)
        .whiteout(".wh.dir")
        .whiteout(".wh..wh.plnk/1.2")
        .done();
    ground.unpack(&tar).unwrap();
    let is_whiteout = |name: &str| {
        std::fs::symlink_metadata(ground.fs().join(name))
            .is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
    };
    let is_opaque = |name: &str| tree::is_opaque(&folder_file(&ground.fs().join(name)));
    assert!(is_whiteout("gone2") && !is_whiteout("gone"));
    assert_eq!(["opaque", "back", "back2", "dir"].map(is_opaque), [true; 4]);
    assert_eq!(read(ground.fs().join("opaque/new")), "new");
    assert_eq!(read(ground.fs().join("kept")), "kept");
    let mut names: Vec<_> = walk(&ground.fs()).iter().map(|p| p.file_name().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["back", "back2", "dir", "file", "gone", "gone2", "kept", "new", "opaque"]);
}

#[test]
fn a_later_entry_takes_the_place_of_an_earlier_one() {
    let ground = Ground::new();
    let tar = TestTar::new()
        .file("a", "first")
        .file("a", "second")
        .dir("d", 0o755)
        .file("d/deep/x", "x")
        .file("d", "now a file")
        .symlink("s", "a")
        .dir("s", 0o755)
        .file("s/in", "in")
        .done();
    let unpacked = ground.unpack(&tar).unwrap();
    assert_eq!(read(ground.fs().join("a")), "second");
    assert_eq!(read(ground.fs().join("d")), "now a file");
    assert_eq!(read(ground.fs().join("s/in")), "in");
    assert_eq!(unpacked.implied, Vec::<Vec<u8>>::new());
}

#[test]
fn names_lead_through_the_layers_own_links() {
    let ground = Ground::new();
    let tar =
        TestTar::new().symlink("lib", "/usr/lib").symlink("l2", "./lib/../lib").file("l2/x", "x").done();
    let unpacked = ground.unpack(&tar).unwrap();
    assert_eq!(read(ground.fs().join("usr/lib/x")), "x");
    assert_eq!(unpacked.implied, [b"usr".to_vec(), b"usr/lib".to_vec()]);
}

#[test]
fn what_the_layer_does_not_have_is_told() {
    let ground = Ground::new();
    let tar = TestTar::new().file("a/b/c", "c").dir("a", 0o700).hardlink("new", "old/file").done();
    let unpacked = ground.unpack(&tar).unwrap();
    assert_eq!(unpacked.implied, [b"a/b".to_vec()]);
    assert_eq!(unpacked.links, [(b"new".to_vec(), b"old/file".to_vec())]);
}

#[test]
fn numbers_of_any_writer_are_read_and_none_refuses_the_layer() {
    if !is_root() {
        return;
    }
    let pax = |records: &[(&str, &[u8])]| TestTar::new().pax(records).file("f", "").done();
    let header = |offset: usize, field: &[u8]| {
        let mut tar = TestTar::new().file("f", "");
        tar.patch(0, offset, field);
        tar.done()
    };
    let mut v7 = TestTar::new().raw(b"f", b'x', 0o644, b"", 0, b"");
    v7.patch(0, 257, &[0; 8]); // no magic: `x` is just a file's type
    let v7 = [v7.bytes().to_vec(), TestTar::new().file("g", "").done()].concat();
    /// uid, gid, seconds, nanoseconds
    type Attributes = (u32, u32, i64, i64);
    let plain = (0, 0, 1000, 0);
    let cases: Vec<(&str, Vec<u8>, Attributes)> = vec![
        ("1969", pax(&[("mtime", b"-1")]), (0, 0, -1, 0)),
        ("1960", pax(&[("mtime", b"-315619200.75")]), (0, 0, -315_619_201, 250_000_000)),
        ("a plus", pax(&[("mtime", b"+5.5")]), (0, 0, 5, 500_000_000)),
        ("the last one counts", pax(&[("mtime", b"7.5"), ("mtime", b"8.25")]), (0, 0, 8, 250_000_000)),
        ("rubbish leaves the header's", pax(&[("mtime", b"yesterday")]), plain),
        ("not even text", pax(&[("mtime", b"\xff\xfe")]), plain),
        ("nothing leaves the header's", pax(&[("mtime", b""), ("uid", b""), ("size", b"")]), plain),
        ("base 256 below 0", header(136, &[0xff; 12]), (0, 0, -1, 0)),
        ("octal below 0", header(136, b"-00000000017"), (0, 0, -15, 0)),
        ("rubbish", header(136, b"zzzzzzzzzzz\0"), (0, 0, 0, 0)),
        ("owners", pax(&[("uid", b"4294967294"), ("gid", b"70000")]), (4_294_967_294, 70_000, 1000, 0)),
        ("the last id", pax(&[("uid", b"4294967295"), ("gid", b"4294967296")]), (65_534, 65_534, 1000, 0)),
        ("owners below 0", pax(&[("uid", b"-2"), ("gid", b"-1")]), (65_534, 65_534, 1000, 0)),
        ("the header's owner below 0", header(108, &[0xff; 8]), (65_534, 0, 1000, 0)),
        ("a device where none is", header(329, b"\xff\xff\xffzz\xff\xff\xff"), plain),
        ("before ustar", v7, plain),
    ];
    for (what, tar, (uid, gid, seconds, nanoseconds)) in cases {
        let ground = Ground::new();
        ground.unpack(&tar).unwrap_or_else(|error| panic!("{what}: {error}"));
        let name = if what == "before ustar" { "g" } else { "f" };
        let found = std::fs::metadata(ground.fs().join(name)).unwrap();
        let found = (found.uid(), found.gid(), found.mtime(), found.mtime_nsec());
        assert_eq!(found, (uid, gid, seconds, nanoseconds), "{what}");
    }
    // Beyond what a file system holds, the nearest that it does.
    for (text, sign) in [("99999999999999999999999", 1), ("-99999999999999999999999.5", -1)] {
        let ground = Ground::new();
        ground.unpack(&pax(&[("mtime", text.as_bytes())])).unwrap();
        let found = std::fs::metadata(ground.fs().join("f")).unwrap().mtime();
        assert!(found.signum() == sign && found.abs() >= 1 << 31, "{text}: {found}");
    }
}

#[test]
fn a_signed_checksum_is_one_and_a_wrong_one_is_not() {
    let mut tar = TestTar::new().file("caf\u{e9}", "x").bytes().to_vec();
    let sum: i32 =
        (0..512).map(|at| if (148..156).contains(&at) { 32 } else { i32::from(tar[at].cast_signed()) }).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let ground = Ground::new();
    ground.unpack(&tar).unwrap();
    assert_eq!(read(ground.fs().join("caf\u{e9}")), "x");
    tar[0] ^= 1;
    assert!(matches!(Ground::new().unpack(&tar), Err(LayerError::Tar(_))));
}

#[test]
fn a_number_that_says_where_content_lies_must_be_one() {
    let sized = |text: &[u8]| TestTar::new().pax(&[("size", text)]).file("a", "").done();
    let sparse = |key: &str, text: &[u8]| {
        let good: [(&str, &[u8]); 2] = [("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"1")];
        TestTar::new().pax(&[good[0], good[1], (key, text)]).file("a", "x").done()
    };
    let header = |field: &[u8; 12]| {
        let mut tar = TestTar::new().file("a", "");
        tar.patch(0, 124, field);
        tar.done()
    };
    let mut wide = [0_u8; 12];
    (wide[0], wide[3]) = (0x80, 1); // 2^64, which modulo 2^64 is nothing
    for (what, tar) in [
        ("a sign", sized(b"-1")),
        ("a plus", sized(b"+0")),
        ("a fraction", sized(b"0.5")),
        ("rubbish", sized(b"many")),
        ("no text", sized(b"\xff")),
        ("a sparse map", sparse("GNU.sparse.map", b"0,x")),
        ("a sparse map of no text", sparse("GNU.sparse.map", b"\xff")),
        ("a sparse size", sparse("GNU.sparse.realsize", b"-1")),
        ("a sparse version", sparse("GNU.sparse.major", b"one")),
        ("a size over 64 bits", header(&wide)),
        ("a size below 0", header(&[0xff; 12])),
    ] {
        assert!(Ground::new().unpack(&tar).is_err(), "{what}");
    }
    Ground::new().unpack(&sized(b"0")).unwrap();
    Ground::new().unpack(&sparse("GNU.sparse.realsize", b"1")).unwrap();
}

#[test]
fn what_gnu_tar_writes_of_an_old_file_is_unpacked_as_it_was() {
    let ground = Ground::new();
    let old = ground.folder.path().join("old");
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    std::fs::write(&old, "old").unwrap();
    run("touch", &["-d", "1960-02-03T04:05:06.75Z", old.to_str().unwrap()]);
    for format in ["posix", "gnu"] {
        let tar = run(
            "tar",
            &["-c", &format!("--format={format}"), "-C", ground.folder.path().to_str().unwrap(), "old"],
        );
        ground.unpack(&tar).unwrap_or_else(|error| panic!("{format}: {error}"));
        let (was, is) =
            (std::fs::metadata(&old).unwrap(), std::fs::metadata(ground.fs().join("old")).unwrap());
        assert_eq!(is.mtime(), was.mtime(), "{format}");
        assert!(format == "gnu" || is.mtime_nsec() == was.mtime_nsec());
        std::fs::remove_file(ground.fs().join("old")).unwrap();
    }
}

#[test]
fn sizes_that_disagree_do_not_shift_the_stream() {
    let ground = Ground::new();
    // Links and directories that claim content have none; a nested header in a file stays content.
    let inner = TestTar::new().file("evil", "evil").done();
    let tar = TestTar::new()
        .raw(b"dir", b'5', 0o755, b"", 512, b"")
        .raw(b"link", b'2', 0o777, b"x", 1024, b"")
        .pax(&[("size", inner.len().to_string().as_bytes())])
        .raw(b"nested", b'0', 0o644, b"", 0, &inner)
        .file("last", "last")
        .done();
    ground.unpack(&tar).unwrap();
    let mut names: Vec<_> = walk(&ground.fs()).iter().map(|p| p.file_name().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["dir", "last", "link", "nested"]);
    assert_eq!(std::fs::read(ground.fs().join("nested")).unwrap(), inner);
}

#[test]
fn sparse_files_have_their_holes_and_lying_maps_are_refused() {
    let sparse = |map: &str, real: &str, content: &str| {
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.size", real.as_bytes()),
        ];
        TestTar::new().pax(&records).file("sparse", content).file("after", "after").done()
    };
    let ground = Ground::new();
    ground.unpack(&sparse("4,3,1000,2", "2000", "abcde")).unwrap();
    let bytes = std::fs::read(ground.fs().join("sparse")).unwrap();
    assert_eq!((bytes.len(), &bytes[4..7], &bytes[1000..1002]), (2000, &b"abc"[..], &b"de"[..]));
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 5);
    assert_eq!(read(ground.fs().join("after")), "after");
    for (map, real) in
        [("0,3,2,2", "10"), ("0,5", "4"), ("0,4", "10"), ("0,6", "10"), ("0,5", "1099511627776")]
    {
        assert!(Ground::new().unpack(&sparse(map, real, "abcde")).is_err(), "{map} {real}");
    }
}

#[test]
fn what_is_too_large_is_refused() {
    let big_header = TestTar::new().pax(&[("comment", &vec![b'x'; 2 << 20])]).file("a", "").done();
    let long = "d/".repeat(2100) + "f";
    let big_xattr =
        TestTar::new().pax(&[("SCHILY.xattr.user.a", &vec![b'x'; 65 << 10])]).file("a", "").done();
    let name = TestTar::new().file(&"n".repeat(256), "").done();
    let huge = TestTar::new().raw(b"huge", b'0', 0o644, b"", 0o77777777777, b"").done();
    // Sizes that overflow when they are added up or padded.
    let mut sum = TestTar::new().pax(&[("comment", &[b'x'; 600])]);
    let at = sum.len();
    sum = sum.raw(b"././@LongLink", b'L', 0, b"", 0, b"");
    let mut base_256 = [0xff_u8; 12];
    (base_256[0], base_256[1], base_256[2], base_256[3]) = (0x80, 0, 0, 0);
    (base_256[10], base_256[11]) = (0xfe, 0);
    sum.patch(at, 124, &base_256);
    let padded = TestTar::new().pax(&[("size", b"18446744073709551615")]).file("a", "").done();
    for tar in [sum.done(), padded, big_header, TestTar::new().file(&long, "").done(), big_xattr, name, huge]
    {
        assert!(Ground::new().unpack(&tar).is_err());
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_inside_an_entry_is_an_error() {
    let tar = TestTar::new().dir("a", 0o755).file("a/b", &"x".repeat(700)).file("c", "c").done();
    let complete = tar.len() - 1024;
    for length in (1..complete).filter(|length| length % 512 != 0 || (1024..2048).contains(length)) {
        assert!(Ground::new().unpack(&tar[..length]).is_err() || length >= complete, "{length}");
    }
    Ground::new().unpack(&tar[..complete]).unwrap();
}

fn any_tar() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![
        "a",
        "a/b",
        "a/b/c",
        "d",
        "d/x",
        "../canary/x",
        "/a",
        ".wh.a",
        "a/.wh.b",
        "a/.wh..wh..opq",
        "./",
        "l",
        "l/x",
    ]);
    let target = prop::sample::select(vec![
        "a",
        "..",
        "../canary",
        "../canary/secret",
        "/",
        "l",
        "d",
        "a/b",
        "CANARY",
    ]);

    let key = prop::sample::select(vec![
        "path",
        "linkpath",
        "size",
        "uid",
        "mtime",
        "GNU.sparse.major",
        "GNU.sparse.minor",
        "GNU.sparse.map",
        "GNU.sparse.realsize",
        "GNU.sparse.name",
        "GNU.sparse.offset",
        "GNU.sparse.numbytes",
        "SCHILY.xattr.user.a",
    ]);
    let value = prop::sample::select(vec![
        "",
        "0",
        "1",
        "7",
        "512",
        "1000",
        "-1",
        "18446744073709551615",
        "0,1,5,2",
        "9,18446744073709551615",
        "../canary/x",
        "d/x",
        "a",
        "1.5",
    ]);
    let pax = prop::collection::vec((key, value), 0..4);
    let kind = prop::sample::select(b"00012356gxLKSV".to_vec());
    let entry = (pax, name, target, kind, 0_u64..2000);
    let mutation = (any::<prop::sample::Index>(), any::<u8>(), any::<bool>());
    (prop::collection::vec(entry, 1..12), prop::collection::vec(mutation, 0..4)).prop_map(
        |(entries, mutations)| {
            let mut tar = TestTar::new();
            for (pax, name, target, kind, size) in entries {
                if !pax.is_empty() {
                    let records: Vec<_> = pax.iter().map(|(key, value)| (*key, value.as_bytes())).collect();
                    tar = tar.pax(&records);
                }
                let content = if b"0xgLKS".contains(&kind) { vec![b'e'; size as usize] } else { Vec::new() };
                tar =
                    tar.raw(name.as_bytes(), kind, 0o4777, target.as_bytes(), content.len() as u64, &content);
            }
            let mut bytes = tar.done();
            for (at, byte, sealed) in mutations {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                let header = at / 512 * 512;
                if sealed {
                    testtar::seal(&mut bytes[header..header + 512]);
                }
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_tar_escapes_or_panics(tar in any_tar()) {
        let ground = Ground::new();
        let before = ground.state();
        let _ = ground.unpack(&tar);
        prop_assert_eq!(ground.state(), before);
    }
}

/// Of a map without a line's end the parser wants as many bytes as it has, so the input must not be asked for them for ever.
#[test]
fn a_sparse_map_without_an_end_is_an_error() {
    let tar = include_bytes!("../../../../hack/fuzz/corpus/tar/sparse-map-without-end");
    let mut archive = Archive::new(&tar[..]);
    assert!(matches!(archive.next(), Err(LayerError::Read(_))));
    let endless = Read::chain(&tar[..], std::io::repeat(b'7'));
    assert!(matches!(Archive::new(endless).next(), Err(LayerError::Limit { what: "tar header", .. })));
}

#[test]
fn a_directory_that_is_replaced_loses_its_mark_and_a_new_one_has_none() {
    if !is_root() {
        return;
    }
    let ground = Ground::new();
    let tar = TestTar::new()
        .dir("a", 0o755)
        .dir("a/b", 0o755)
        .whiteout("a/.wh..wh..opq")
        .whiteout("a/b/.wh..wh..opq")
        .file("a", "a file now")
        .whiteout(".wh.c")
        .file("c/d", "")
        .file("c", "a file now")
        .done();
    assert_eq!(ground.unpack(&tar).unwrap().opaque, [b""; 0]);
    let ground = Ground::new();
    let tar = TestTar::new().dir("a", 0o755).whiteout("a/.wh..wh..opq").file("a", "").dir("a", 0o755).done();
    assert_eq!(ground.unpack(&tar).unwrap().opaque, [b""; 0]);
    assert!(!tree::is_opaque(&folder_file(&ground.fs().join("a"))));
}
