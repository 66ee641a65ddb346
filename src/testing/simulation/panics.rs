//! The panics of the worker on this thread. Handlers panic without the hook.

use std::{cell::RefCell, panic, sync::Once};

thread_local! {
    static SEEN: RefCell<Option<String>> = const { RefCell::new(None) };
    static WATCHES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

pub(super) fn forget() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if WATCHES.get() {
                SEEN.set(Some(panic.to_string()));
            } else {
                before(panic);
            }
        }));
    });
    SEEN.set(None);
    WATCHES.set(true);
}

pub(super) fn taken() -> Option<String> {
    WATCHES.set(false);
    SEEN.take()
}
