//! The edges between our packages: layers only downward, kinds only as allowed.
//!
//! Dependencies of tests (`[dev-dependencies]`) are free: nothing of them ships.

use crate::tidy::Violation;
use crate::workspace::Package;

const LAYERS: [&str; 4] = ["crates/base/", "crates/kv/", "crates/broker/", "crates/app/"];

/// Which kinds a kind may depend on.
const KINDS: [(&str, &[&str]); 6] = [
    // The contract obeys the rules of a pure crate: it has no I/O, no async, no clock.
    ("pure", &["pure", "contract"]),
    ("contract", &["pure", "contract"]),
    ("driver", &["pure", "contract", "driver"]),
    ("service", &["pure", "contract", "driver"]),
    ("root", &["pure", "contract", "driver", "service"]),
    ("test", &["pure", "contract", "driver", "service", "root", "test"]),
];

/// Checks kinds, names and every edge.
pub(crate) fn check(packages: &[Package]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for package in packages {
        let violation = |what: String, why: &'static str, remedy: &str| Violation {
            path: format!("{}/Cargo.toml", package.folder),
            line: 1,
            what,
            why,
            remedy: remedy.to_owned(),
        };
        let kind = package.kind.as_deref().unwrap_or_default();
        let Some((_, allowed)) = KINDS.iter().find(|(name, _)| *name == kind) else {
            violations.push(violation(
                format!("{} has the kind {kind:?}", package.name),
                "the kind decides what a crate may depend on",
                "set `[package.metadata.house] kind` to pure, driver, contract, service, root or test",
            ));
            continue;
        };
        if let Some(what) = misnamed(package) {
            violations.push(violation(
                what,
                "a package is found by its folder",
                "name it `ratatosk-` and the folder's name",
            ));
        }
        if layer(package).is_none() && kind != "test" {
            violations.push(violation(
                format!("{} of kind {kind} lies in no layer", package.name),
                "what ships has a place in base < kv < broker < app",
                "move it under crates/",
            ));
        }
        for dependency in package.dependencies.iter().filter(|dependency| !dependency.is_dev) {
            let Some(target) = packages.iter().find(|other| other.name == dependency.name) else {
                continue;
            };
            let target_kind = target.kind.as_deref().unwrap_or_default();
            if !allowed.contains(&target_kind) {
                violations.push(violation(
                    format!("{} ({kind}) depends on {} ({target_kind})", package.name, target.name),
                    "kinds keep cores pure and services separate",
                    "depend on a contract or a pure crate, or let the root wire the two",
                ));
            }
            if let (Some(from), Some(to)) = (layer(package), layer(target))
                && from < to
            {
                violations.push(violation(
                    format!("{} depends upward on {}", package.name, target.name),
                    "a crate depends on its own layer or on lower ones",
                    "move the shared part down, or turn the dependency round",
                ));
            }
        }
    }
    violations
}

fn layer(package: &Package) -> Option<usize> {
    LAYERS.iter().position(|layer| package.folder.starts_with(layer))
}

fn misnamed(package: &Package) -> Option<String> {
    let folder = package.folder.rsplit('/').next().unwrap_or_default();
    let is_right = package.name == format!("ratatosk-{folder}")
        || (package.name == folder && folder == "ratatosk");
    (!is_right).then(|| format!("package {} lies in {}", package.name, package.folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(folder: &str, kind: &str, dependencies: &[(&str, bool)]) -> Package {
        let name = folder.rsplit('/').next().unwrap_or_default();
        Package {
            name: if name == "ratatosk" { name.into() } else { format!("ratatosk-{name}") },
            folder: folder.into(),
            kind: (!kind.is_empty()).then(|| kind.into()),
            dependencies: dependencies
                .iter()
                .map(|(name, is_dev)| Dependency {
                    name: format!("ratatosk-{name}"),
                    is_dev: *is_dev,
                })
                .collect(),
        }
    }

    fn whats(packages: &[Package]) -> Vec<String> {
        check(packages).into_iter().map(|violation| violation.what).collect()
    }

    #[test]
    fn allowed_edges_pass() {
        let packages = [
            package("crates/base/clock", "pure", &[]),
            package("crates/broker/contract", "contract", &[("clock", false)]),
            package("crates/broker/plugin", "driver", &[("contract", false)]),
            package("crates/broker/dist", "service", &[("contract", false), ("plugin", false)]),
            package("crates/app/ratatosk", "root", &[("dist", false)]),
            package("testing/sim", "test", &[("dist", false)]),
        ];
        assert_eq!(whats(&packages), Vec::<String>::new());
    }

    #[test]
    fn a_pure_crate_refuses_a_driver() {
        let packages = [
            package("crates/base/rpc", "driver", &[]),
            package("crates/base/clock", "pure", &[("rpc", false)]),
        ];
        assert_eq!(whats(&packages), ["ratatosk-clock (pure) depends on ratatosk-rpc (driver)"]);
    }

    #[test]
    fn a_service_refuses_a_service() {
        let packages = [
            package("crates/broker/inbox", "service", &[]),
            package("crates/broker/dist", "service", &[("inbox", false)]),
        ];
        assert_eq!(
            whats(&packages),
            ["ratatosk-dist (service) depends on ratatosk-inbox (service)"]
        );
    }

    #[test]
    fn what_ships_refuses_test_crates_except_in_its_own_tests() {
        let testkit = package("testing/testkit", "test", &[]);
        let shipped = package("crates/broker/dist", "service", &[("testkit", false)]);
        assert_eq!(
            whats(&[testkit.clone(), shipped]),
            ["ratatosk-dist (service) depends on ratatosk-testkit (test)"]
        );
        let tested = package("crates/broker/dist", "service", &[("testkit", true)]);
        assert_eq!(whats(&[testkit, tested]), Vec::<String>::new());
    }

    #[test]
    fn layers_are_not_crossed_upward() {
        let packages = [
            package("crates/broker/topic", "pure", &[]),
            package("crates/kv/store", "driver", &[("topic", false)]),
        ];
        assert_eq!(whats(&packages), ["ratatosk-store depends upward on ratatosk-topic"]);
    }

    #[test]
    fn kind_name_and_place_are_required() {
        assert_eq!(whats(&[package("crates/base/a", "", &[])]), ["ratatosk-a has the kind \"\""]);
        assert_eq!(
            whats(&[package("crates/base/a", "engine", &[])]),
            ["ratatosk-a has the kind \"engine\""]
        );
        assert_eq!(
            whats(&[package("tools/a", "pure", &[])]),
            ["ratatosk-a of kind pure lies in no layer"]
        );
        let mut renamed = package("crates/base/a", "pure", &[]);
        renamed.name = "clock".into();
        assert_eq!(whats(&[renamed]), ["package clock lies in crates/base/a"]);
    }
}
