//! Each preset, before a server that behaves as its product is known to, as far as the sample upstream can.

use std::collections::{BTreeMap, BTreeSet};

use sample_upstream::{Bounds, Everything, Handling, Lies, Links, Paging, Posts, Settings, Total};

use super::Expected::Complete;
use super::by_patient::like_epic;
use super::{Row, run};

const SYSTEM: &str = "/$export";
const ALL_PATIENTS: &str = "/Patient/$export";
const GROUP: &str = "/Group/all/$export";

/// A product: whether it says what it is, how it behaves, and what is exported of it by which method.
struct Product {
    preset: &'static str,
    names_itself: bool,
    settings: Settings,
    exports: Vec<(&'static str, &'static str)>,
}

fn all_levels(method: &'static str) -> Vec<(&'static str, &'static str)> {
    [SYSTEM, ALL_PATIENTS, GROUP].map(|level| (level, method)).into()
}

fn named(software: &str, settings: Settings) -> Settings {
    Settings { software: software.to_owned(), ..settings }
}

fn required(name: &str, params: &[&str]) -> (String, Vec<String>) {
    (name.to_owned(), params.iter().map(|name| (*name).to_owned()).collect())
}

fn patient_by_patient() -> Vec<Product> {
    // "_count and status must be provided with patient"; lists hold single values, and there are no totals.
    let oracle_health = Settings {
        counts: false,
        accurate_total: false,
        total: Total::Absent,
        max_count: Some(100),
        require_patient: true,
        required_params: BTreeMap::from([
            required("Encounter", &["status"]),
            required("Patient", &["identifier", "name"]),
        ]),
        history: false,
        lies: Lies { first_of_list: true, handling: Handling::Lenient, ..Lies::default() },
        ..Settings::default()
    };
    vec![
        Product {
            preset: "epic",
            names_itself: true,
            settings: Settings { history: false, ..like_epic() },
            exports: vec![(GROUP, "unproven")],
        },
        Product {
            preset: "oracle-health",
            names_itself: false,
            settings: oracle_health,
            exports: vec![(GROUP, "unproven")],
        },
    ]
}

fn clouds() -> Vec<Product> {
    let azure = Settings {
        paging: Paging::Cursor,
        total: Total::Absent,
        default_count: 10,
        max_count: Some(1_000),
        lies: Lies { empty_pages: true, handling: Handling::AsPreferred, ..Lies::default() },
        ..Settings::default()
    };
    let google = Settings {
        paging: Paging::Cursor,
        total: Total::Estimated,
        counts: false,
        default_count: 100,
        max_count: Some(1_000),
        history: false,
        lies: Lies { posts: Posts::FormIgnored, handling: Handling::AsPreferred, ..Lies::default() },
        ..Settings::default()
    };
    let healthlake = Settings {
        paging: Paging::Cursor,
        total: Total::Absent,
        max_count: Some(100),
        lies: Lies { bounds: Bounds::Floored, handling: Handling::Lenient, ..Lies::default() },
        ..Settings::default()
    };
    vec![
        Product { preset: "azure", names_itself: false, settings: azure, exports: all_levels("reread") },
        Product { preset: "google", names_itself: false, settings: google, exports: all_levels("reread") },
        Product { preset: "healthlake", names_itself: false, settings: healthlake, exports: all_levels("counted") },
    ]
}

fn servers() -> Vec<Product> {
    let hapi = Settings {
        total: Total::WhenComplete,
        everything: Everything::Paged,
        lies: Lies { cache_mixes_lt_and_le: true, no_store_truncates: true, ..Lies::default() },
        ..Settings::default()
    };
    // Its own address is what it was told, and nobody has told it.
    let helios = Settings {
        paging: Paging::Cursor,
        total: Total::Absent,
        max_count: Some(1_000),
        everything: Everything::Paged,
        link_base: Some("http://localhost:8080/fhir".to_owned()),
        lies: Lies { handling: Handling::AsPreferred, ..Lies::default() },
        ..Settings::default()
    };
    let linuxforhealth = Settings {
        paging: Paging::Offset,
        total: Total::Exact,
        accurate_total: false,
        default_count: 10,
        max_count: Some(1_000),
        lies: Lies { posts: Posts::NextByPost, handling: Handling::AsPreferred, ..Lies::default() },
        ..Settings::default()
    };
    let medplum = Settings {
        paging: Paging::Cursor,
        total: Total::Estimated,
        max_count: Some(1_000),
        lies: Lies { typed_references: true, ..Lies::default() },
        ..Settings::default()
    };
    let aidbox = Settings {
        paging: Paging::Offset,
        total: Total::Exact,
        default_count: 100,
        lies: Lies { links: Links::WithoutBase, handling: Handling::Lenient, ..Lies::default() },
        ..Settings::default()
    };
    let firely = Settings {
        paging: Paging::Offset,
        total: Total::Absent,
        default_count: 10,
        max_count: Some(50),
        lies: Lies { list_pages: Some(20), handling: Handling::AsPreferred, ..Lies::default() },
        ..Settings::default()
    };
    let blaze = Settings {
        total: Total::Absent,
        default_count: 50,
        max_count: Some(10_000),
        everything: Everything::Paged,
        lies: Lies { handling: Handling::AsPreferred, ..Lies::default() },
        ..Settings::default()
    };
    let product = |preset, names_itself, settings, method| Product {
        preset,
        names_itself,
        settings,
        exports: all_levels(method),
    };
    vec![
        product("hapi", true, named("HAPI FHIR Server", hapi), "counted"),
        product("helios", true, named("Helios FHIR Server", helios), "counted"),
        product("linuxforhealth", true, named("LinuxForHealth FHIR", linuxforhealth), "counted"),
        product("medplum", true, named("Medplum", medplum), "reread"),
        product("aidbox", false, aidbox, "counted"),
        product("firely", false, firely, "counted"),
        product("blaze", true, named("Blaze", blaze), "counted"),
    ]
}

fn products() -> Vec<Product> {
    [patient_by_patient(), clouds(), servers()].into_iter().flatten().collect()
}

#[tokio::test]
async fn each_preset_exports_its_product_in_full() {
    let rows = products().into_iter().flat_map(|product| {
        let Product { preset, names_itself, settings, exports } = product;
        exports.into_iter().map(move |(level, method)| Row {
            name: format!("the product of the preset {preset}"),
            settings: settings.clone(),
            patients: 4,
            prepare: |_| {},
            preset: (!names_itself).then_some(preset),
            level,
            expected: Complete(method),
            check: |_, _| Ok(()),
        })
    });
    run(rows.collect()).await;
}

#[test]
fn every_preset_has_a_product_of_its_own_here() {
    let text = include_str!("../../../src/profile/presets.yaml");
    let names = text.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()));
    let presets: Vec<_> = names.filter_map(|line| line.strip_suffix(':')).collect();
    let here: Vec<_> = products().iter().map(|product| product.preset).collect();
    assert!(presets.len() >= 12, "{presets:?}");
    assert_eq!(presets.iter().copied().collect::<BTreeSet<_>>(), here.iter().copied().collect());
    assert_eq!(here.len(), here.iter().collect::<BTreeSet<_>>().len());
    // One that does not name itself would not be recognised, and the others are.
    for product in products() {
        let names_itself = product.settings.software != Settings::default().software;
        assert_eq!(product.names_itself, names_itself, "{}", product.preset);
    }
}
