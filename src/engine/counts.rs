//! The three counts that show what windows cannot see of a type.

use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::plan::slice::{Phase, Scope, Slice, Window};

/// What lies at or after `until`, what lies before it, and all of the type.
pub(super) fn scopes(resource_type: ResourceType, until: Millis) -> (Slice, Slice, Slice) {
    let slice = |window| Slice { phase: Phase::Gap, resource_type, scope: Scope::Window(window) };
    let after = slice(Window { from: Some(until), until: None });
    let before = slice(Window { from: None, until: Some(until) });
    (after, before, slice(Window::ALL))
}
