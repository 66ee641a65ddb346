//! Enumerations whose values each have a word, for logs, headers, metrics and the API.

/// Declares the enumeration, the list of its values (`ALL`) and their words (`name`).
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $enum:ident {
            $($(#[$doc:meta])* $variant:ident = $word:literal,)*
        }
    ) => {
        $(#[$meta])*
        pub enum $enum {
            $($(#[$doc])* $variant,)*
        }

        impl $enum {
            /// All values, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word for this value, from a small fixed set.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}
pub(crate) use words;
