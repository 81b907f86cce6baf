//! The memory that tcptop takes, the kernel's share included.
//!
//! Owns the reading of both from /proc. Only reads.

use std::collections::HashMap;
use std::fs;

use humansize::{BINARY, SizeFormatter};
use libbpf_rs::libbpf_sys::BPF_MAP_TYPE_RINGBUF;

/// This process's and the kernel's memory, in words.
pub(super) fn figure() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let own = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let own = own.and_then(|size| size.trim().strip_suffix(" kB")?.parse().ok());
    let own = own.map_or_else(|| "?".to_owned(), |size: u64| size_text(size * 1024));
    let descriptors = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
    let infos = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let kernel = size_text(of_kernel(infos));
    format!(
        "memory: {own} of this process, {kernel} of the kernel's maps and programs; each TCP \
         socket takes more"
    )
}

fn size_text(bytes: u64) -> String {
    SizeFormatter::new(bytes, BINARY).to_string()
}

/// The bytes of BPF maps and programs in the texts of `/proc/PID/fdinfo/`, each map and
/// program once (`bpf_map_show_fdinfo` and `bpf_prog_show_fdinfo` in kernel/bpf/syscall.c).
fn of_kernel(infos: impl Iterator<Item = String>) -> u64 {
    let mut sizes = HashMap::new();
    for info in infos {
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse::<u64>().ok())
        };
        let id = field("map_id:").map(|id| ("map", id));
        let id = id.or_else(|| field("prog_id:").map(|id| ("program", id)));
        // Before Linux 6.4 the kernel takes the sizes of keys and values for the memory, and a
        // ring buffer has neither.
        let ring = field("map_type:") == Some(BPF_MAP_TYPE_RINGBUF.into());
        let least = field("max_entries:").filter(|_| ring).unwrap_or(0);
        if let (Some(id), Some(size)) = (id, field("memlock:")) {
            sizes.insert(id, size.max(least));
        }
    }
    sizes.values().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_map_and_program_counts_once() {
        let map = "pos:\t0\nmap_type:\t2\nmemlock:\t8192\nmap_id:\t7\n";
        let program = "prog_type:\t26\nmemlock:\t4096\nprog_id:\t7\n";
        let link = "link_type:\ttracing\nlink_id:\t3\nprog_id:\t7\n";
        let file = "pos:\t0\nflags:\t02\n";
        let ring = "map_type:\t27\nmax_entries:\t65536\nmemlock:\t0\nmap_id:\t8\n";
        let infos = [map, map, program, link, file, ring].map(str::to_owned);
        assert_eq!(of_kernel(infos.into_iter()), 12_288 + 65_536);
    }
}
