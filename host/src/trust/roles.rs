//! What a role allows. Knows no method: `api` says which right a method needs.

use std::fmt;

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// To look at what the node serves and how it does: reflection, health, figures.
    Look,
    /// To read the guest's data: queries and watches.
    Query,
    /// To change the guest's data: commands.
    Command,
    /// To watch over a node and to save its data: status, backup, snapshot.
    Operate,
    /// To change the cluster.
    Administer,
}

/// What a subject is to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// May look and query.
    Reader,
    /// A reader that may send commands.
    Writer,
    /// May look and operate. It reads no data of the guest, except in a backup.
    Operator,
    /// May do everything.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 4] = [Role::Reader, Role::Writer, Role::Operator, Role::Admin];

    /// Returns the role of that name, as a policy and a token write it.
    pub fn named(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Returns the name of the role.
    pub fn name(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Writer => "writer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    /// Whether the role has this right.
    pub fn may(self, right: Right) -> bool {
        match right {
            Right::Look => true,
            Right::Query => matches!(self, Role::Reader | Role::Writer | Role::Admin),
            Right::Command => matches!(self, Role::Writer | Role::Admin),
            Right::Operate => matches!(self, Role::Operator | Role::Admin),
            Right::Administer => self == Role::Admin,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Right {
    /// Returns the roles that have it, as a refusal names them.
    pub fn roles(self) -> &'static str {
        match self {
            Right::Look => "reader, writer, operator or admin",
            Right::Query => "reader, writer or admin",
            Right::Command => "writer or admin",
            Right::Operate => "operator or admin",
            Right::Administer => "admin",
        }
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// Adds a role.
    pub fn with(self, role: Role) -> Roles {
        Roles(self.0 | 1 << role as u8)
    }

    /// Whether one of them has this right.
    pub fn may(self, right: Right) -> bool {
        Role::ALL.into_iter().any(|role| self.0 & 1 << role as u8 != 0 && role.may(right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_roles_that_have_the_right() {
        for right in [Right::Look, Right::Query, Right::Command, Right::Operate, Right::Administer] {
            let having = Role::ALL.into_iter().filter(|role| role.may(right)).map(Role::name);
            let named: Vec<&str> = right.roles().split([',', ' ']).filter(|word| !matches!(*word, "" | "or")).collect();
            assert_eq!(having.collect::<Vec<_>>(), named);
        }
    }

    #[test]
    fn a_set_has_the_rights_of_all_its_roles() {
        let roles = Roles::default();
        assert!(!roles.may(Right::Look), "who has no role has no right");
        let roles = roles.with(Role::Writer).with(Role::Operator);
        assert!(roles.may(Right::Query) && roles.may(Right::Operate) && !roles.may(Right::Administer));
        assert_eq!(Role::named("operator"), Some(Role::Operator));
        assert_eq!(Role::named("Operator"), None);
    }
}
