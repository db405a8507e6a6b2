//! Fuzz targets of what plugins print and operators write.

use super::{config::NetworkList, result};

/// The two outputs of a plugin, with a NUL between.
pub fn cni_result(input: &[u8]) {
    let mut outputs = input.splitn(2, |byte| *byte == 0);
    let (stdout, stderr) = (outputs.next().unwrap_or_default(), outputs.next().unwrap_or_default());
    if let Ok(value) = result::parse(stdout)
        && let Ok(addresses) = result::addresses(&value, "eth0")
    {
        assert!(!addresses.is_empty());
    }
    let complaint = result::complaint(stdout, stderr);
    assert!(!complaint.contains(char::is_control), "{complaint:?}");
    drop(result::versions(stdout));
}

/// A network's configuration, and plugins in files of their own, with a NUL between: what goes to the cache reads as
/// the same network.
pub fn cni_config(input: &[u8]) {
    let mut files = input.split(|byte| *byte == 0);
    let first = files.next().unwrap_or_default();
    for name in ["a.conflist", "a.conf"] {
        let Ok(mut list) = NetworkList::parse(name, first) else { continue };
        for file in files.clone() {
            drop(list.add_file(file));
        }
        assert!(!list.name.contains('/') && list.programs().iter().all(|program| !program.contains('/')));
        let cached = NetworkList::from_cache(&list.bytes).expect("the cache can be read");
        // That the list of a single file counts alone is said in what is cached.
        assert_eq!(NetworkList { bytes: Vec::new(), ..cached }, NetworkList { bytes: Vec::new(), ..list });
    }
}
