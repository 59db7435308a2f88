//! Right and wish in one: what of a type a client may have, and what of that it asks for, as the filters that all of its searches
//! carry (SEC-21, SM-032). Pure.

use crate::fhir::filter::{Filter, FilterError, MOST_FILTERS};

/// Pairs of a right and a wish that are looked at, of which many may turn out to be one.
const MOST_PAIRS: usize = 16 * MOST_FILTERS;

/// What passes any of these is exported: what any of `rights` lets pass, of that what all of `required` do, and of that what any
/// of `wishes` does. No wish wishes for everything; no right is none.
///
/// # Errors
/// [`FilterError::TooLong`] if it takes more searches, or longer ones, than a type may have.
pub(crate) fn alternatives<'a>(
    rights: &[Filter],
    required: impl IntoIterator<Item = &'a Filter>,
    wishes: &[Filter],
) -> Result<Vec<Filter>, FilterError> {
    let required = required.into_iter().try_fold(Filter::ALL, |sum, filter| sum.and(filter))?;
    let everything = [Filter::ALL];
    let wishes = if wishes.is_empty() { &everything } else { wishes };
    // Each is held against all others.
    if rights.len().saturating_mul(wishes.len()) > MOST_PAIRS {
        return Err(FilterError::TooLong);
    }
    let mut alternatives: Vec<Filter> = Vec::new();
    for (right, wish) in rights.iter().flat_map(|right| wishes.iter().map(move |wish| (right, wish))) {
        let both = right.and(&required)?.and(wish)?;
        // What another one lets pass anyhow needs no search of its own.
        if !alternatives.iter().any(|known| known.is_as_wide_as(&both)) {
            alternatives.retain(|known| !both.is_as_wide_as(known));
            alternatives.push(both);
        }
    }
    if alternatives.len() > MOST_FILTERS { Err(FilterError::TooLong) } else { Ok(alternatives) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::filter::Escapes;

    fn filters(texts: &[&str]) -> Vec<Filter> {
        let parse = |text: &&str| match *text {
            "" => Filter::ALL,
            text => Filter::parse(text, Escapes::Once).expect("a filter"),
        };
        texts.iter().map(parse).collect()
    }

    /// SM-032, SEC-21: whatever is wished for, each alternative is within some right and within all that is required.
    #[test]
    fn a_wish_never_widens_a_right() {
        for (rights, required, wishes, expected) in [
            (vec![""], vec![], vec![], vec![""]),
            (vec![""], vec![], vec!["a=1"], vec!["a=1"]),
            (vec![""], vec![], vec!["a=1", "a=2"], vec!["a=1", "a=2"]),
            (vec![], vec![], vec!["a=1"], vec![]),
            (vec!["r=1"], vec![], vec![], vec!["r=1"]),
            (vec!["r=1"], vec![], vec!["a=1"], vec!["a=1&r=1"]),
            (vec!["r=1"], vec![], vec!["r=2"], vec!["r=1&r=2"]),
            (vec!["r=1"], vec![], vec!["r=1"], vec!["r=1"]),
            (vec!["r=1", "s=1"], vec![], vec!["a=1", "a=2"], vec!["a=1&r=1", "a=2&r=1", "a=1&s=1", "a=2&s=1"]),
            (vec![""], vec!["q=1"], vec![], vec!["q=1"]),
            (vec!["r=1"], vec!["q=1", "q=2"], vec!["a=1"], vec!["a=1&q=1&q=2&r=1"]),
            (vec![""], vec![], vec!["a=1", "a=1&b=1"], vec!["a=1"]),
            (vec![""], vec![], vec!["a=1&b=1", "a=1"], vec!["a=1"]),
        ] {
            let (rights, required, wishes) = (filters(&rights), filters(&required), filters(&wishes));
            let found = alternatives(&rights, &required, &wishes).expect("short ones");
            assert_eq!(found, filters(&expected), "{rights:?} {required:?} {wishes:?}");
            for filter in found {
                assert!(rights.iter().any(|right| right.is_as_wide_as(&filter)));
                assert!(required.iter().all(|required| required.is_as_wide_as(&filter)));
            }
        }
        let many: Vec<_> = (0..=MOST_FILTERS).map(|number| format!("a={number}")).collect();
        let many = filters(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(alternatives(&[Filter::ALL], [], &many), Err(FilterError::TooLong));
        let same = vec![Filter::ALL; MOST_PAIRS + 1];
        assert_eq!(alternatives(&same[1..], [], &[]), Ok(vec![Filter::ALL]));
        assert_eq!(alternatives(&same, [], &[]), Err(FilterError::TooLong));
    }
}
