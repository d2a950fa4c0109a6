//! What the operating system says of memory and drivers.

/// Most memory that this process has held in RAM so far, in bytes; `None` where the system does not tell.
pub fn peak_resident_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Memory that the machine can still give, in bytes; `None` where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// Version of NVIDIA's kernel driver; `None` where none is loaded.
pub fn nvidia_driver() -> Option<String> {
    Some(std::fs::read_to_string("/sys/module/nvidia/version").ok()?.trim().to_owned())
}

/// A field of the kernel's tables, which count in KiB.
fn field(table: &str, name: &str) -> Option<u64> {
    let value = table.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let table = "VmPeak:\t  200 kB\nVmHWM:\t     12 kB\nThreads:\t3\n";
        assert_eq!(field(table, "VmHWM:"), Some(12 * 1024));
        assert_eq!(field(table, "VmRSS:"), None);
        assert_eq!(field(table, "Threads:"), None);
    }
}
