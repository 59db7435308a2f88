//! The layer before a service of somebody else.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use offtake::{Config, Offtake};
use tower::{Layer, ServiceExt, service_fn};

/// SEC-03: only what could be taken for a path of the FHIR base is ours to judge.
#[tokio::test]
async fn a_service_behind_the_layer_keeps_all_its_own_paths() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config::local("http://127.0.0.1:9/fhir", "http://127.0.0.1:8080/fhir", folder.path());
    let offtake = Offtake::builder(config.expect("a good configuration")).build().expect("everything can be opened");
    let host = service_fn(async |request: Request<Empty<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::from(request.uri().path().to_owned())))
    });
    let service = offtake.layer().layer(host);
    for (path, expected) in [
        ("/", StatusCode::OK),
        ("/about", StatusCode::OK),
        ("/files/a%2Fb", StatusCode::OK),
        ("/files/a%zz//..", StatusCode::OK),
        ("/other/$export", StatusCode::OK),
        ("/fhir/Patient/1", StatusCode::OK),
        ("/fhir/$bulk-status/1", StatusCode::NOT_FOUND),
        ("/fhir/$export-all", StatusCode::FORBIDDEN),
        ("/fhir/a%2Fb", StatusCode::BAD_REQUEST),
        ("//fhir/$export", StatusCode::BAD_REQUEST),
        ("/files/%2e%2e/fhir/$export", StatusCode::BAD_REQUEST),
    ] {
        let request = Request::get(path).header("host", "127.0.0.1").body(Empty::new()).expect("a good request");
        let Ok(answer) = service.clone().oneshot(request).await;
        assert_eq!(answer.status(), expected, "{path}");
        if expected == StatusCode::OK {
            let body = answer.into_body().collect().await.expect("it is in memory").to_bytes();
            assert_eq!(body, path, "the service gets the path as it was sent");
        }
    }
    offtake.drain().await;
}
