//! The kernel's text files of figures as numbers. Pure, and total: what is missing, cut short or nonsense is
//! `None` or zero, never an error, for a file may lose its cgroup between two reads.
//!
//! The forms are of the kernel's Documentation/admin-guide: cgroup-v2.rst, cgroup-v1/memory.rst,
//! cgroup-v1/blkio-controller.rst, and accounting/psi.rst.

/// How long tasks have waited for one resource (a v2 `*.pressure` file).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All of them at once. The kernel has none for the CPU of the whole machine, and says zero.
    pub full: Stall,
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Nanoseconds since the cgroup was made.
    pub total_ns: u64,
    /// Percent of the last 10, 60 and 300 seconds.
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
}

/// Bytes and operations of one block device, read and written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DeviceIo {
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub written_bytes: u64,
    /// Operations.
    pub reads: u64,
    pub writes: u64,
}

/// `memory.stat`, of the cgroup and all below it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct MemoryStat {
    pub(super) rss: u64,
    pub(super) cache: u64,
    pub(super) mapped_file: u64,
    pub(super) inactive_file: u64,
    /// v2 only; v1 has a file for it.
    pub(super) kernel: u64,
    pub(super) page_faults: u64,
    pub(super) major_page_faults: u64,
    /// v1 with swap accounting only; v2 has a file for it.
    pub(super) swap: Option<u64>,
    /// v1: the lowest limit on the way to the root; `None` is none.
    pub(super) limit: Option<u64>,
    /// As `limit`, of memory and swap together.
    pub(super) limit_with_swap: Option<u64>,
}

/// `cpu.stat`: v2's, and what v1 has of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct CpuStat {
    pub(super) usage_ns: u64,
    pub(super) user_ns: u64,
    pub(super) system_ns: u64,
    pub(super) periods: u64,
    pub(super) throttled_periods: u64,
    pub(super) throttled_ns: u64,
}

/// v1 says "no limit" by the largest multiple of the page size that fits its counters. No machine has this much.
const UNLIMITED_BYTES: u64 = 1 << 62;

/// Block devices of one cgroup that are told apart; the rest is left out.
const DEVICES_MAX: usize = 64;

/// A file of one number.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A file of one limit: `None` for none, be it v2's `max` or v1's huge number.
pub(super) fn limit(text: &str) -> Option<u64> {
    number(text).filter(|limit| *limit < UNLIMITED_BYTES)
}

/// The `key number` lines of a file. A last line without its end was cut off, and is not one.
fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.split_inclusive('\n').filter_map(|line| {
        let (key, value) = line.strip_suffix('\n')?.split_once(' ')?;
        Some((key, value.parse().ok()?))
    })
}

pub(super) fn memory_stat_v2(text: &str) -> MemoryStat {
    let mut stat = MemoryStat::default();
    // Before Linux 5.18 there is no sum of the kernel's own, only its parts.
    let (mut kernel, mut parts) = (None, 0_u64);
    for (key, value) in pairs(text) {
        match key {
            "anon" => stat.rss = value,
            "file" => stat.cache = value,
            "file_mapped" => stat.mapped_file = value,
            "inactive_file" => stat.inactive_file = value,
            "pgfault" => stat.page_faults = value,
            "pgmajfault" => stat.major_page_faults = value,
            "kernel" => kernel = Some(value),
            "kernel_stack" | "pagetables" | "percpu" | "slab" => parts = parts.saturating_add(value),
            _ => {}
        }
    }
    stat.kernel = kernel.unwrap_or(parts);
    stat
}

pub(super) fn memory_stat_v1(text: &str) -> MemoryStat {
    let mut stat = MemoryStat::default();
    let limit = |value: u64| Some(value).filter(|value| *value < UNLIMITED_BYTES);
    for (key, value) in pairs(text) {
        match key {
            "total_rss" => stat.rss = value,
            "total_cache" => stat.cache = value,
            "total_mapped_file" => stat.mapped_file = value,
            "total_inactive_file" => stat.inactive_file = value,
            "total_pgfault" => stat.page_faults = value,
            "total_pgmajfault" => stat.major_page_faults = value,
            "total_swap" => stat.swap = Some(value),
            "hierarchical_memory_limit" => stat.limit = limit(value),
            "hierarchical_memsw_limit" => stat.limit_with_swap = limit(value),
            _ => {}
        }
    }
    stat
}

pub(super) fn cpu_stat_v2(text: &str) -> CpuStat {
    let mut stat = CpuStat::default();
    for (key, value) in pairs(text) {
        let nanos = value.saturating_mul(1000);
        match key {
            "usage_usec" => stat.usage_ns = nanos,
            "user_usec" => stat.user_ns = nanos,
            "system_usec" => stat.system_ns = nanos,
            "nr_periods" => stat.periods = value,
            "nr_throttled" => stat.throttled_periods = value,
            "throttled_usec" => stat.throttled_ns = nanos,
            _ => {}
        }
    }
    stat
}

/// v1's `cpu.stat` has the throttling only, in nanoseconds.
pub(super) fn cpu_stat_v1(text: &str) -> CpuStat {
    let mut stat = CpuStat::default();
    for (key, value) in pairs(text) {
        match key {
            "nr_periods" => stat.periods = value,
            "nr_throttled" => stat.throttled_periods = value,
            "throttled_time" => stat.throttled_ns = value,
            _ => {}
        }
    }
    stat
}

/// v1's `cpuacct.stat`: (user, system) in nanoseconds, from ticks of which Linux tells programs 100 a second.
pub(super) fn cpuacct_stat(text: &str) -> (u64, u64) {
    const TICK_NS: u64 = 10_000_000;
    let (mut user, mut system) = (0, 0);
    for (key, value) in pairs(text) {
        match key {
            "user" => user = value.saturating_mul(TICK_NS),
            "system" => system = value.saturating_mul(TICK_NS),
            _ => {}
        }
    }
    (user, system)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`, which old kernels leave out.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let mut lines = text.lines();
    let some = stall(lines.next()?.strip_prefix("some ")?)?;
    let full = lines.next().and_then(|line| stall(line.strip_prefix("full ")?)).unwrap_or_default();
    Some(Pressure { some, full })
}

fn stall(fields: &str) -> Option<Stall> {
    let field = |name: &str| fields.split(' ').find_map(|field| field.strip_prefix(name));
    // What is no number of percent must not get into an answer: clients compute with it.
    let percent = |name| field(name)?.parse::<f64>().ok().filter(|value| (0.0..=100.0).contains(value));
    Some(Stall {
        total_ns: field("total=")?.parse::<u64>().ok()?.saturating_mul(1000),
        avg10: percent("avg10=")?,
        avg60: percent("avg60=")?,
        avg300: percent("avg300=")?,
    })
}

/// v2's `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
pub(super) fn io_stat(text: &str) -> Vec<DeviceIo> {
    let mut devices = Vec::new();
    for line in text.lines().take(DEVICES_MAX) {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        let mut io = DeviceIo { major, minor, ..DeviceIo::default() };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.written_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        devices.push(io);
    }
    devices
}

/// v1's `blkio.throttle.io_service_bytes_recursive` and `…io_serviced_recursive`: `8:0 Read 1`, and the like.
pub(super) fn blkio(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut devices: Vec<DeviceIo> = Vec::new();
    for (text, counts_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(id), Some(kind), Some(value)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (Some((major, minor)), Ok(value)) = (device(id), value.parse()) else { continue };
            let known = devices.iter().position(|io| (io.major, io.minor) == (major, minor));
            let at = match known {
                Some(at) => at,
                None if devices.len() < DEVICES_MAX => {
                    devices.push(DeviceIo { major, minor, ..DeviceIo::default() });
                    devices.len() - 1
                }
                None => continue,
            };
            let Some(io) = devices.get_mut(at) else { continue };
            match (kind, counts_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.written_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    devices
}

fn device(word: &str) -> Option<(u32, u32)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY_V2: &str = "anon 417792\nfile 8192\nkernel 155648\nkernel_stack 16384\npagetables 32768\n\
        percpu 0\nsock 0\nshmem 0\nfile_mapped 4096\nslab 90000\ninactive_anon 413696\ninactive_file 2048\n\
        pgfault 1024\npgmajfault 3\n";

    const MEMORY_V1: &str = "cache 11\nrss 12\nhierarchical_memory_limit 67108864\n\
        hierarchical_memsw_limit 9223372036854771712\ntotal_cache 4096\ntotal_rss 8192\n\
        total_mapped_file 100\ntotal_pgfault 7\ntotal_pgmajfault 1\ntotal_inactive_file 2048\ntotal_swap 5\n";

    #[test]
    fn memory_is_read_by_the_names_of_its_version() {
        let v2 = MemoryStat {
            rss: 417_792,
            cache: 8192,
            mapped_file: 4096,
            inactive_file: 2048,
            kernel: 155_648,
            page_faults: 1024,
            major_page_faults: 3,
            swap: None,
            limit: None,
            limit_with_swap: None,
        };
        assert_eq!(memory_stat_v2(MEMORY_V2), v2);
        let v1 = MemoryStat {
            rss: 8192,
            cache: 4096,
            mapped_file: 100,
            inactive_file: 2048,
            kernel: 0,
            page_faults: 7,
            major_page_faults: 1,
            swap: Some(5),
            limit: Some(64 << 20),
            limit_with_swap: None,
        };
        assert_eq!(memory_stat_v1(MEMORY_V1), v1);
    }

    #[test]
    fn an_old_kernels_own_memory_is_the_sum_of_its_parts() {
        let old = MEMORY_V2.replace("kernel 155648\n", "");
        assert_eq!(memory_stat_v2(&old).kernel, 16_384 + 32_768 + 90_000);
    }

    #[test]
    fn a_number_that_was_cut_off_is_not_taken_for_a_smaller_one() {
        let cut = &MEMORY_V1[..MEMORY_V1.find("total_rss 8192").unwrap() + "total_rss 81".len()];
        assert_eq!(memory_stat_v1(cut).rss, 0);
        assert_eq!(cpu_stat_v2("usage_usec 5").usage_ns, 0);
        assert_eq!(cpu_stat_v2("usage_usec 5\n").usage_ns, 5000);
    }

    #[test]
    fn cpu_time_is_in_nanoseconds_whatever_the_file_counts_in() {
        let text =
            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 2\nthrottled_usec 9\n";
        let expected = CpuStat {
            usage_ns: 30_000,
            user_ns: 20_000,
            system_ns: 10_000,
            periods: 4,
            throttled_periods: 2,
            throttled_ns: 9000,
        };
        assert_eq!(cpu_stat_v2(text), expected);
        let v1 = CpuStat { periods: 4, throttled_periods: 2, throttled_ns: 9, ..CpuStat::default() };
        assert_eq!(cpu_stat_v1("nr_periods 4\nnr_throttled 2\nthrottled_time 9\n"), v1);
        assert_eq!(cpuacct_stat("user 150\nsystem 2\n"), (1_500_000_000, 20_000_000));
    }

    #[test]
    fn no_limit_is_none_on_both_versions() {
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("4096\n"), Some(4096));
        assert_eq!(number(""), None);
        assert_eq!(number("-1\n"), None);
    }

    #[test]
    fn pressure_totals_become_nanoseconds() {
        let text = "some avg10=7.68 avg60=20.65 avg300=19.78 total=3525471483\n\
                    full avg10=0.50 avg60=0.00 avg300=100.00 total=12\n";
        let some = Stall { total_ns: 3_525_471_483_000, avg10: 7.68, avg60: 20.65, avg300: 19.78 };
        let full = Stall { total_ns: 12_000, avg10: 0.5, avg60: 0.0, avg300: 100.0 };
        assert_eq!(pressure(text), Some(Pressure { some, full }));
        let (first, _) = text.split_once('\n').unwrap();
        assert_eq!(pressure(first), Some(Pressure { some, full: Stall::default() }));
    }

    #[test]
    fn nonsense_is_no_pressure() {
        for text in [
            "",
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=0",
            "some avg10=NaN avg60=0.00 avg300=0.00 total=0",
            "some avg10=inf avg60=0.00 avg300=0.00 total=0",
            "some avg10=-1 avg60=0.00 avg300=0.00 total=0",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=-1",
            "some avg10=0.00 avg60=0.0",
        ] {
            assert_eq!(pressure(text), None, "{text:?}");
        }
    }

    const SDA: DeviceIo =
        DeviceIo { major: 8, minor: 0, read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 };

    #[test]
    fn io_is_told_by_device() {
        let v2 = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n253:1 wbytes=9\nbad rbytes=1\n7:0\n";
        let other = DeviceIo { major: 253, minor: 1, written_bytes: 9, ..DeviceIo::default() };
        let idle = DeviceIo { major: 7, ..DeviceIo::default() };
        assert_eq!(io_stat(v2), [SDA, other, idle]);
        let bytes = "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Total 3\nTotal 3\n";
        assert_eq!(blkio(bytes, "8:0 Read 3\n8:0 Write 4\n8:0 Total 7\nTotal 7\n"), [SDA]);
    }

    #[test]
    fn devices_without_end_are_cut() {
        let lines = |form: &dyn Fn(usize) -> String| (0..1000).map(form).collect::<String>();
        assert_eq!(io_stat(&lines(&|nth| format!("8:{nth} rbytes=1\n"))).len(), DEVICES_MAX);
        assert_eq!(blkio(&lines(&|nth| format!("8:{nth} Read 1\n")), "").len(), DEVICES_MAX);
    }

    #[test]
    fn no_text_of_any_kind_makes_a_parser_fail() {
        let texts =
            ["", "\n\n", " ", "= = =\n", "a b\nc\n", "8:0", "99999999999999999999999 1\n", "total=\u{2713}"];
        for text in texts {
            memory_stat_v1(text);
            memory_stat_v2(text);
            cpu_stat_v1(text);
            cpu_stat_v2(text);
            cpuacct_stat(text);
            blkio(text, text);
            io_stat(text);
            assert_eq!(pressure(text), None);
        }
        assert_eq!(cpu_stat_v2(&format!("usage_usec {}\n", u64::MAX)).usage_ns, u64::MAX);
    }
}
