//! The memory limit of the container, from the kernel's control groups (`cgroups(7)`).

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Messages may take this part of the memory limit. Copies in handlers and retries, and lapin's
/// buffers, may need as much again.
const PART: u64 = 4;

/// The budget for messages where the settings have none; `None`: there is no memory limit.
pub(super) fn default_budget() -> Option<u64> {
    limit().map(|limit| (limit / PART).max(1))
}

/// The memory limit of this process in bytes; `None`: there is none.
pub(crate) fn limit() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    memory_limit(Path::new("/sys/fs/cgroup"), &membership)
}

/// The lowest limit of the group that the process is in and of the groups around it. `membership`
/// has lines such as `0::/system.slice/lapwing.service` (version 2) or `4:memory:/docker/1f` (version
/// 1, where a number of exabytes means no limit).
fn memory_limit(root: &Path, membership: &str) -> Option<u64> {
    let mut limits = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            it if it.split(',').any(|it| it == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group: PathBuf = root.join(group.trim_start_matches('/'));
        let groups = group.ancestors().take_while(|it| it.starts_with(&root));
        limits.extend(groups.filter_map(|group| {
            let text = fs::read_to_string(group.join(file)).ok()?;
            text.trim().parse::<u64>().ok()
        }));
    }
    limits.into_iter().min().filter(|limit| *limit < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_lowest_limit_of_all_groups_around_the_process_counts() {
        let root = tempfile::tempdir().unwrap();
        let limit = || memory_limit(root.path(), "0::/a/b\n");
        assert_eq!(limit(), None);
        write(root.path(), "a/b/memory.max", "max\n");
        assert_eq!(limit(), None);
        write(root.path(), "a/memory.max", "268435456\n");
        assert_eq!(limit(), Some(268_435_456));
        write(root.path(), "a/b/memory.max", "1024\n");
        assert_eq!(limit(), Some(1024));
        // In a container the group is the root.
        write(root.path(), "memory.max", "512\n");
        assert_eq!(memory_limit(root.path(), "0::/\n"), Some(512));
    }

    #[test]
    fn the_first_version_of_control_groups_is_read_too() {
        let root = tempfile::tempdir().unwrap();
        let limit = || memory_limit(root.path(), "5:cpu:/x\n4:hugetlb,memory:/docker/1f\n0::/\n");
        write(
            root.path(),
            "memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(limit(), None);
        write(
            root.path(),
            "memory/docker/1f/memory.limit_in_bytes",
            "4096\n",
        );
        assert_eq!(limit(), Some(4096));
    }
}
