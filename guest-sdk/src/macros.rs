//! The macros that an author writes: `include_proto!`, `state!`, `export!`, `version!` and
//! `migrate!`; and those that they and generated code call. They contain no logic, only names.

/// Includes the code that the build script made from the `.proto`: messages, service traits,
/// descriptor.
///
/// Use it once per crate, at the crate's root.
#[macro_export]
macro_rules! include_proto {
    () => {
        include!(concat!(env!("OUT_DIR"), "/lockstep.rs"));
    };
}

/// Declares the state, a struct of collections. Each has a tag that becomes the prefix of its keys.
///
/// Tags are like field numbers in a `.proto`: from 1 to 16383, and never reused for something else.
/// Names may change freely.
///
/// ```
/// # use lockstep_guest::{Counter, Map};
/// lockstep_guest::state! {
///     /// Accounts and what they hold.
///     pub struct Bank {
///         balances: Map<String, u64> = 1,
///         transfers: Counter = 2,
///     }
/// }
/// ```
#[macro_export]
macro_rules! state {
    (
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field_visibility:vis $field:ident : $collection:ty = $tag:literal ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        $visibility struct $name {
            $( $(#[$field_meta])* $field_visibility $field: $collection, )*
        }

        // A constant item, so that `cargo check` evaluates it, too.
        const _: () = $crate::tags::check_tags(<$name as $crate::State>::COLLECTIONS);

        impl $crate::State for $name {
            const COLLECTIONS: &'static [$crate::tags::Tags] = &[
                $($crate::tags::Tags {
                    field: stringify!($field),
                    own: $tag,
                    rows: <$collection as $crate::dispatch::Collection>::ROWS,
                    indexes: <$collection as $crate::dispatch::Collection>::INDEX_TAGS,
                    entries: <$collection as $crate::dispatch::Collection>::INDEX_ENTRIES,
                }),*
            ];

            fn open() -> Self {
                Self { $( $field: <$collection as $crate::dispatch::Collection>::at($tag), )* }
            }
        }
    };
    (
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field_visibility:vis $field:ident : $collection:ty $(= $tag:literal)? ),* $(,)?
        }
    ) => {
        ::core::compile_error!(
            "each collection of `state!` has a tag, a number that stays its own for ever: `orders: Map<u64, Order> = 1`"
        );
    };
}

/// Exports a state as the machine of this crate, serving one or more services.
///
/// Examples: `export!(Kv: Example)`, `export!(Kv: Example, Admin)`, or with a snapshot format of
/// your own `export!(Kv: Example; snapshots: MyFormat)`; see
/// [`snapshot::Format`](crate::snapshot::Format).
#[macro_export]
macro_rules! export {
    ($state:ident : $($service:path),+ $(,)?) => {
        $crate::export!($state: $($service),+; snapshots: $crate::snapshot::AsItIs);
    };
    ($state:ident : $($service:path),+ ; snapshots: $format:ty) => {
        impl $crate::Machine for $state {
            type Snapshots = $format;
            const METHODS: &'static [&'static [$crate::dispatch::Method<Self>]] =
                &[$(<Self as $service>::LOCKSTEP_METHODS),+];
        }

        $crate::state_section!($state, $crate::recorded_state!());

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type LockstepExports = $crate::Exports<$state>;
            $crate::bindings::export_machine!(LockstepExports with_types_in $crate::bindings);
        };
    };
}

/// Declares the version of this machine: 1 to 64 printable ASCII characters, in the root of the
/// crate.
///
/// The next version's [`migrate!`](crate::migrate) has a rule for each version that it knows.
/// Examples: `version!("2")`, `version!(env!("CARGO_PKG_VERSION"))`.
#[macro_export]
macro_rules! version {
    ($version:expr) => {
        // Its name makes a second version in the same place an error.
        #[doc(hidden)]
        pub const LOCKSTEP_VERSION: &str = $crate::migration::checked_version($version);

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code)]
        const _: () = {
            #[used]
            #[unsafe(link_section = "lockstep.version")]
            static VERSION: [u8; LOCKSTEP_VERSION.len()] = $crate::migration::version_bytes(LOCKSTEP_VERSION);
        };
    };
}

/// Says how this machine changes the state of an earlier version before it uses it.
///
/// A rule has the version of the machine that ran before and a closure. `state` is open as in a
/// command, `cx` is a [`Migration`](crate::Migration). All calls are part of one log entry. If one
/// of them refuses or fails, nothing has changed, and the earlier machine runs on. So it does when
/// no rule has its version. A machine without `migrate!` takes the state as it is.
///
/// ```
/// # use lockstep_guest::{Map, Migrated};
/// lockstep_guest::state! {
///     struct Bank {
///         // In version 1 these were texts.
///         balances: Map<String, u64> = 1,
///     }
/// }
///
/// lockstep_guest::migrate!(Bank {
///     "1" => |state, cx| Ok(state.balances.rewrite(cx.cursor(), 1000, |_, text: String| {
///         text.parse().expect("version 1 wrote numbers")
///     })),
///     "1.1" | "1.2" => |_, _| Ok(Migrated::done()),
/// });
/// ```
///
/// `_` stands for all other versions, and `""` for a machine that declares none.
#[macro_export]
macro_rules! migrate {
    ($state:ident { $($($from:tt)|+ => $rule:expr),+ $(,)? }) => {
        impl $crate::Migrates for $state {
            const RULES: &'static [$crate::migration::Rule<Self>] = &[
                $($crate::migration::Rule { from: &[$($crate::migrate_from!($from)),+], migrate: $rule }),+
            ];
        }

        const _: () = $crate::migration::check_rules(<$state as $crate::Migrates>::RULES);

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type LockstepMigrator = $crate::Migrator<$state>;
            $crate::migrator_bindings::export_migrator!(LockstepMigrator with_types_in $crate::migrator_bindings);
        };
    };
    ($($other:tt)*) => {
        ::core::compile_error!(
            "`migrate!` has the state, and a rule for each version that it follows: `migrate!(Locks { \"1\" => |state, cx| ..., })`"
        );
    };
}

/// Turns the pattern of a rule into a value.
#[doc(hidden)]
#[macro_export]
macro_rules! migrate_from {
    (_) => {
        ::core::option::Option::None
    };
    ($version:expr) => {
        ::core::option::Option::Some($version)
    };
}

/// What the build script read in `state.lock`. Tests may declare states of earlier versions, which
/// are not compared.
#[doc(hidden)]
#[macro_export]
macro_rules! recorded_state {
    () => {
        if ::core::cfg!(test) || ::core::option_env!("CARGO_TARGET_TMPDIR").is_some() {
            ::core::option::Option::None
        } else {
            ::core::option_env!("LOCKSTEP_STATE_LOCK")
        }
    };
}

/// Compares a state with the record of what lies under its tags, and puts its description into the
/// section where `lockstep guest check` looks for it.
#[doc(hidden)]
#[macro_export]
macro_rules! state_section {
    ($state:ty, $record:expr) => {
        const _: () = {
            const BYTES: usize = $crate::lock::len(<$state as $crate::State>::COLLECTIONS);
            const STATE: [u8; BYTES] = $crate::lock::bytes(<$state as $crate::State>::COLLECTIONS);
            const _: () = $crate::lock::check(&STATE, $record);

            #[cfg(target_arch = "wasm32")]
            #[allow(unsafe_code)]
            #[used]
            #[unsafe(link_section = "lockstep.state")]
            static SECTION: [u8; BYTES] = STATE;
        };
    };
}

/// Puts the descriptor into the section where the host looks for it before it runs anything.
#[doc(hidden)]
#[macro_export]
macro_rules! descriptor_section {
    ($len:literal, $bytes:expr) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code)]
        const _: () = {
            #[used]
            #[unsafe(link_section = "lockstep.descriptor")]
            static DESCRIPTOR: [u8; $len] = *$bytes;
        };
    };
}

/// Makes a generated message usable as a value in a collection.
#[doc(hidden)]
#[macro_export]
macro_rules! message_value {
    ($message:ty, $name:literal) => {
        impl $crate::Stored for $message {
            const SHAPE: $crate::Shape = $crate::Shape::Name($name);

            fn decode_value(bytes: &[u8]) -> ::core::result::Result<Self, $crate::value::Malformed> {
                $crate::value::decode_message(bytes)
            }
        }
        impl $crate::value::EncodeValue for $message {
            fn encode_value(&self, out: &mut ::std::vec::Vec<u8>) {
                $crate::value::encode_message(self, out);
            }
        }
    };
}
