//! Finds the key or word that the writer probably meant.

/// The word that differs least from the given text, if the difference is small.
pub(crate) fn nearest<'w>(written: &str, words: &[&'w str]) -> Option<&'w str> {
    nearest_within(written, words, |word| 1 + word.len() / 4)
}

pub(in crate::config) fn nearest_within<'w>(
    written: &str,
    words: &[&'w str],
    limit: impl Fn(&str) -> usize,
) -> Option<&'w str> {
    words
        .iter()
        .map(|word| (strsim::osa_distance(written, word), *word))
        .filter(|(distance, word)| *distance <= limit(word))
        .min()
        .map(|(_, word)| word)
}
