//! Audit logs: who did what to which resource.
//!
//! They are read as any table is, with a mapping of their own ([`TableMapping::audit`](crate::sql::TableMapping::audit),
//! [`TableMapping::kestra_audit`](crate::sql::TableMapping::kestra_audit)), and shipped to the same exporters. Their
//! records have no severity, so a filter by severity passes all of them; what narrows them are [`resources`].
//!
//! Give them an offset key of their own. In a configuration the same filter is
//! `{"attribute": "resource", "in": ["FLOW", "KV_STORE", "KVSTORE"]}` among those of the query.

use logship_core::{Filter, Query};

/// The kinds of resources that Kestra has had, by the names of its versions 1 and 2
/// (<https://kestra.io/docs/enterprise/governance/audit-logs>). There may be others by now: the list names what there is
/// to choose from, and is no limit.
pub const RESOURCES: [&str; 37] = [
    "APP",
    "APP_EXECUTION",
    "ASSET",
    "AUDITLOG",
    "BINDING",
    "BLUEPRINT",
    "COPILOT",
    "CREDENTIAL",
    "DASHBOARD",
    "EXECUTION",
    "FLOW",
    "GROUP",
    "INSTANCE",
    "INVITATION",
    "KILL_SWITCH",
    "KVSTORE",
    "KV_STORE",
    "MCP_SERVER",
    "NAMESPACE",
    "NAMESPACE_FILE",
    "ROLE",
    "SECRET",
    "SECURITY_INTEGRATION",
    "SERVICE_ACCOUNT",
    "SETTING",
    "SYSTEM_SETTINGS",
    "TEMPLATE",
    "TENANT",
    "TENANT_ACCESS",
    "TENANT_SETTINGS",
    "TESTSUITE",
    "TESTSUITE_RUN",
    "TRIGGER",
    "UNKNOWN",
    "USER",
    "VERSIONED_PLUGIN",
    "WORKER_GROUP",
];

/// Names of one thing over the versions. Rows keep the name under which they were written.
const RENAMED: [&[&str]; 3] =
    [&["KV_STORE", "KVSTORE"], &["SETTING", "SYSTEM_SETTINGS"], &["SETTING", "TENANT_SETTINGS"]];

/// The query with only the audit records of these kinds of resources; with none named, of all.
///
/// A kind is written as anybody would (`FLOW`, `flow`, `KV store`), need not be one of [`RESOURCES`], and is taken under
/// its old and its new name: `KV_STORE` became `KVSTORE`, and `SETTING` became `SYSTEM_SETTINGS` and
/// `TENANT_SETTINGS`.
///
/// ```
/// use logship_core::Query;
///
/// let query = logship_sources::audit::resources(Query::all(), ["flow", "KV STORE"]);
/// assert_eq!(query.to_string(), r#"every severity, resource in ["FLOW", "KVSTORE", "KV_STORE"]"#);
/// ```
#[must_use]
pub fn resources(query: Query, kinds: impl IntoIterator<Item = impl AsRef<str>>) -> Query {
    let mut names = Vec::new();
    for kind in kinds {
        let name = kind.as_ref().trim().to_ascii_uppercase().replace([' ', '-'], "_");
        for renamed in RENAMED.iter().filter(|renamed| renamed.contains(&name.as_str())) {
            names.extend(renamed.iter().map(|name| (*name).to_owned()));
        }
        names.push(name);
    }
    names.sort();
    names.dedup();
    if names.is_empty() { query } else { query.filter(Filter::one_of("resource", names)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::Condition;

    fn names(kinds: &[&str]) -> Vec<String> {
        match resources(Query::all(), kinds).filters.pop() {
            Some(Filter { condition: Condition::In(names), .. }) => names,
            _ => Vec::new(),
        }
    }

    #[test]
    fn k22_a_kind_is_taken_under_every_name_it_had() {
        for spelling in ["KV_STORE", "KVSTORE", "kv store", " Kv-Store "] {
            assert_eq!(names(&[spelling]), ["KVSTORE", "KV_STORE"], "{spelling}");
        }
        assert_eq!(names(&["SETTING"]), ["SETTING", "SYSTEM_SETTINGS", "TENANT_SETTINGS"]);
        assert_eq!(names(&["tenant_settings"]), ["SETTING", "TENANT_SETTINGS"]);
        assert_eq!(names(&["FLOW", "flow", "of_tomorrow"]), ["FLOW", "OF_TOMORROW"]);
        assert!(names(&[]).is_empty(), "none named are all");
    }

    #[test]
    fn the_list_is_in_order_and_names_each_once() {
        assert!(RESOURCES.is_sorted_by(|a, b| a < b));
        assert!(RENAMED.iter().flat_map(|renamed| renamed.iter()).all(|name| RESOURCES.contains(name)));
    }
}
