//! What `config check` says of storages: of what stands in the configuration, in files and in the environment together.

use std::process::Command;

/// Checks a configuration with this `output`, in an environment of these variables alone: whether it is good, and all that
/// is said.
fn check(output: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("offtake.yaml");
    let yaml = format!(
        "server: {{ public_base_url: http://127.0.0.1:8080/fhir }}\n\
         upstream: {{ base_url: http://127.0.0.1:9000/fhir }}\noutput: {{ {output} }}\n"
    );
    std::fs::write(&config, yaml).expect("it is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
    command.args(["config", "check", "--config"]).arg(&config).env_clear().envs(variables.iter().copied());
    let ended = command.output().expect("it runs");
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.success(), String::from_utf8(said).expect("text"))
}

const SAS: [(&str, &str); 2] =
    [("AZURE_STORAGE_ACCOUNT_NAME", "acme"), ("AZURE_STORAGE_SAS_TOKEN", "sv=2024-01-01&sig=hush")];

#[test]
fn a_storage_that_can_be_used_is_good_wherever_it_is_described() {
    let keys = [("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "hush"), ("AWS_REGION", "eu-central-1")];
    let key = [("AZURE_STORAGE_ACCOUNT", "acme"), ("AZURE_STORAGE_KEY", "aHVzaA==")];
    for (output, variables) in [
        ("location: s3://bulk/exports", &keys[..]),
        ("location: s3://bulk", &[]),
        ("location: az://bulk", &key),
        ("location: az://bulk, links: proxy", &SAS),
        ("location: gs://bulk, links: proxy, gcs: { base_url: 'http://storage:4443' }", &[]),
        ("location: file:///nowhere/at/all", &[]),
    ] {
        let (is_good, said) = check(output, variables);
        assert!(is_good && said.ends_with("is good\n"), "{output}: {said}");
    }
}

#[test]
fn what_cannot_be_used_is_named_and_no_secret_told() {
    for (output, variables, expected) in [
        ("location: az://bulk", &SAS[..], "a shared access signature cannot sign"),
        ("location: gs://bulk", &[("GOOGLE_BASE_URL", "http://storage:4443")], "storage.googleapis.com"),
        ("location: gs://bulk, gcs: { base_url: 'http://storage:4443' }", &[], "output.gcs.base_url"),
        (
            "location: s3://bulk, s3: { access_key_id: A, secret_access_key_file: /nowhere/secret }",
            &[],
            "/nowhere/secret",
        ),
        ("location: s3://bulk, s3: { profile: acme }", &[("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")], "acme"),
        ("location: s3://bulk", &[("AWS_SECRET_ACCESS_KEY", "hush")], "the storage cannot be set up"),
        ("location: az://bulk", &[], "the storage cannot be set up"),
        ("location: s3://bulk, s3: { secret_access_key: hush }", &[], "output.s3.access_key_id"),
        ("location: s3://bulk, http: { ca_file: /nowhere/ca.pem }", &[], "/nowhere/ca.pem"),
        ("links: redirect", &[], "which needs a token"),
    ] {
        let (is_good, said) = check(output, variables);
        assert!(!is_good && said.contains(expected), "{output}: {said}");
        assert!(!said.contains("hush"), "{output}: {said}");
    }
}
