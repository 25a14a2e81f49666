//! The macros that an author writes: `include_proto!`, `state!` and `export!`; and the two that
//! generated code calls. They contain no logic, only names.

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
        const _: () = $crate::tags::check_tags(&[
            $($crate::tags::Tags {
                field: stringify!($field),
                own: $tag,
                indexes: <$collection as $crate::dispatch::Collection>::INDEX_TAGS,
            }),*
        ]);

        impl $crate::State for $name {
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

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type LockstepExports = $crate::Exports<$state>;
            $crate::bindings::export_machine!(LockstepExports with_types_in $crate::bindings);
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
    ($message:ty) => {
        impl $crate::Stored for $message {
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
