//! The operator's console: a page, its scripts and styles, embedded in the binary as they are.
//!
//! There is no build step. The page loads nothing from other servers. Its content security policy
//! is `default-src 'none'` plus its own scripts and styles. `uplot/` is [uPlot] 1.6.32 as published.
//!
//! [uPlot]: https://github.com/leeoniya/uPlot

/// A file of the console.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asset {
    /// Its path below `/console/`.
    pub(super) path: &'static str,
    /// Its `Content-Type`.
    pub(super) content_type: &'static str,
    /// Its bytes.
    pub(super) body: &'static [u8],
}

/// The page itself, which is served at `/`.
pub(super) const PAGE: Asset = Asset {
    path: "index.html",
    content_type: "text/html; charset=utf-8",
    body: include_bytes!("index.html"),
};

macro_rules! assets {
    ($($path:literal $content_type:expr),* $(,)?) => {
        &[$(Asset { path: $path, content_type: $content_type, body: include_bytes!($path) }),*]
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const ASSETS: &[Asset] = assets! {
    "address.js" SCRIPT,
    "app.js" SCRIPT,
    "charts.js" SCRIPT,
    "dead.js" SCRIPT,
    "dead_dialogs.js" SCRIPT,
    "dead_job.js" SCRIPT,
    "dead_letter.js" SCRIPT,
    "dead_lists.js" SCRIPT,
    "dead_parts.js" SCRIPT,
    "dead_select.js" SCRIPT,
    "dead_tables.js" SCRIPT,
    "dead_ticks.js" SCRIPT,
    "dom.js" SCRIPT,
    "failures.js" SCRIPT,
    "format.js" SCRIPT,
    "health.js" SCRIPT,
    "in_flight.js" SCRIPT,
    "consumer.js" SCRIPT,
    "consumers.js" SCRIPT,
    "message.js" SCRIPT,
    "messages.js" SCRIPT,
    "pages.js" SCRIPT,
    "search.js" SCRIPT,
    "settings.js" SCRIPT,
    "store.js" SCRIPT,
    "stream.js" SCRIPT,
    "style.css" STYLE,
    "token.js" SCRIPT,
    "uplot/uPlot.iife.min.js" SCRIPT,
    "uplot/uPlot.min.css" STYLE,
};

/// The file at `/console/{path}`.
pub(super) fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn text(asset: &Asset) -> &str {
        std::str::from_utf8(asset.body).expect("it is text")
    }

    #[test]
    fn every_file_of_the_console_is_embedded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/console");
        for sub in ["", "uplot"] {
            for entry in std::fs::read_dir(folder.join(sub)).expect("it is there") {
                let name = entry.expect("it is read").file_name();
                let name = Path::new(sub).join(name);
                let served = name
                    .extension()
                    .is_some_and(|end| end == "js" || end == "css");
                let name = name.to_str().expect("it is text");
                assert_eq!(asset(name).is_some(), served, "{name}");
            }
        }
    }

    #[test]
    fn what_the_page_and_its_scripts_load_is_embedded() {
        let page = text(&PAGE);
        for link in page.split("\"console/").skip(1) {
            let (path, _) = link.split_once('"').expect("the attribute ends");
            assert!(asset(path).is_some(), "{path}");
        }
        for script in ASSETS.iter().filter(|asset| !asset.path.contains('/')) {
            for import in text(script).split(" from \"./").skip(1) {
                let (path, _) = import.split_once('"').expect("the import ends");
                assert!(asset(path).is_some(), "{} imports {path}", script.path);
            }
        }
    }

    /// The content security policy refuses inline scripts and styles. Texts from messages must never
    /// become markup.
    #[test]
    fn nothing_is_inline_and_nothing_makes_markup_of_text() {
        for word in ["style=", " onclick=", "<style", "<script>"] {
            assert!(!text(&PAGE).contains(word), "{word}");
        }
        for script in ASSETS.iter().filter(|asset| !asset.path.contains('/')) {
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                "document.write",
            ] {
                assert!(!text(script).contains(word), "{} has {word}", script.path);
            }
        }
    }
}
