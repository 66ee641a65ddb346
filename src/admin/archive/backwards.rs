//! Reads the lines of a file, last first, with little of it in memory.

use std::{fs::File, io, os::unix::fs::FileExt};

/// The bytes that are read at once.
const BLOCK: u64 = 64 * 1024;
/// A line that is longer is no line of ours.
const LONGEST: usize = 1024 * 1024;

/// Calls `take` with each line until it returns false, or fails. Returns whether it never did.
pub(super) fn lines(
    file: &File,
    take: &mut impl FnMut(&[u8]) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut at = file.metadata()?.len();
    // The beginning of what was read: the end of a line.
    let mut rest = Vec::new();
    while at > 0 {
        let size = BLOCK.min(at);
        at -= size;
        let mut text = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        file.read_exact_at(&mut text, at)?;
        text.append(&mut rest);
        let whole = text.iter().position(|byte| *byte == b'\n');
        let whole = whole.map_or(text.len(), |end| end + 1);
        for line in text[whole..].rsplit(|byte| *byte == b'\n') {
            if !line.is_empty() && !take(line)? {
                return Ok(false);
            }
        }
        // With the line end, which is empty when it is taken again.
        text.truncate(whole);
        if text.len() <= LONGEST {
            rest = text;
        }
    }
    let rest = rest.strip_suffix(b"\n").unwrap_or(&rest);
    Ok(rest.is_empty() || take(rest)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(text: &[u8], most: usize) -> Vec<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        let mut found = Vec::new();
        let mut take = |line: &[u8]| {
            found.push(line.to_vec());
            Ok(found.len() < most)
        };
        let all = lines(&file, &mut take).unwrap();
        assert_eq!(all, found.len() < most);
        found
    }

    #[test]
    fn lines_come_last_first_wherever_the_blocks_end() {
        assert_eq!(read(b"", 9), [b""; 0]);
        assert_eq!(read(b"a\nb\n\nc", 9), [b"c", b"b", b"a"]);
        assert_eq!(read(b"a\nb\n", 1), [b"b"]);
        for extra in 0..40 {
            let line = |n: usize| format!("{n:019}");
            let mut text = "x".repeat(extra).into_bytes();
            for n in 0..8000 {
                text.extend(format!("\n{}", line(n)).into_bytes());
            }
            let found = read(&text, usize::MAX);
            let mut wanted: Vec<_> = (0..8000).rev().map(|n| line(n).into_bytes()).collect();
            if extra > 0 {
                wanted.push("x".repeat(extra).into_bytes());
            }
            assert!(found == wanted, "{extra}");
        }
    }

    #[test]
    fn what_is_too_long_for_a_line_costs_no_memory_and_no_other_line() {
        let mut text = b"first\n".to_vec();
        text.extend(vec![b'x'; 3 * LONGEST]);
        text.extend(b"\nlast\n");
        let found = read(&text, 9);
        assert_eq!(found.first().unwrap(), b"last");
        assert_eq!(found.last().unwrap(), b"first");
        assert!(
            found
                .iter()
                .all(|line| line.len() <= LONGEST + 2 * BLOCK as usize)
        );
    }
}
