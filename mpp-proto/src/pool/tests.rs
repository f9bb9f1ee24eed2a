use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

#[test]
fn chunks_grow_to_capacity_and_move_nothing() {
    let mut chunks = Chunks::new(2500);
    assert_eq!(chunks.push(7u64), Some(0));
    let first: *const u64 = &raw const chunks[0];
    for i in 1..2500 {
        assert_eq!(chunks.push(u64::from(i)), Some(i));
    }
    assert_eq!((chunks.push(0), chunks.len(), chunks.capacity()), (None, 2500, 2500));
    assert_eq!(first, &raw const chunks[0]);
    assert_eq!((chunks.get(2499), chunks.get(2500)), (Some(&2499), None));
    assert!(chunks.get_mut(2500).is_none() && chunks.get_mut(NIL).is_none());
    assert_eq!(chunks.chunks.iter().map(|c| c.len()).collect::<Vec<_>>(), [1024, 1024, 452]);
    assert_eq!(chunks.chunks.capacity(), 3);
}

#[test]
fn chunks_reach_fills_the_gap_with_defaults() {
    let mut chunks = Chunks::<u32>::new(3000);
    *chunks.reach(2000).unwrap() = 5;
    assert_eq!((chunks.len(), chunks[1999], chunks[2000]), (2001, 0, 5));
    *chunks.reach(3).unwrap() = 4;
    assert_eq!((chunks.len(), chunks[3]), (2001, 4));
    // The chunk has room for it already, but it does not exist.
    assert_eq!(chunks.get(2001), None);
    assert!(chunks.reach(3000).is_none());
    assert_eq!(chunks.len(), 2001);
}

#[test]
#[should_panic(expected = "index 1 of 1")]
fn chunks_index_beyond_the_length_panics_even_inside_a_chunk() {
    let mut chunks = Chunks::new(10);
    chunks.push(1u8);
    let _ = chunks[1];
}

#[test]
fn a_removed_record_is_dropped_at_once_and_its_place_reused_first() {
    let body = alloc::rc::Rc::new(());
    let mut slab = Slab::new(2);
    assert_eq!(slab.insert(Some(body.clone())), Some(0));
    assert_eq!(slab.insert(None), Some(1));
    assert_eq!(slab.insert(None), None);
    assert!(slab.remove(0).is_some());
    assert_eq!(alloc::rc::Rc::strong_count(&body), 1);
    assert!(slab.remove(0).is_none() && slab.remove(9).is_none());
    assert_eq!((slab.len(), slab.insert(None), slab.len()), (1, Some(0), 2));
}

#[derive(Clone, Debug)]
enum SlabOp {
    Insert,
    RemoveFirst(u32),
    RemoveLast(u32),
}

fn slab_op() -> impl Strategy<Value = SlabOp> {
    prop_oneof![
        3 => Just(SlabOp::Insert),
        1 => (0..14u32).prop_map(SlabOp::RemoveFirst),
        1 => (0..14u32).prop_map(SlabOp::RemoveLast),
    ]
}

proptest! {
    #[test]
    fn free_list_against_a_queue(ops in prop::collection::vec(slab_op(), 0..200)) {
        let mut list = FreeList::new(12);
        let (mut free, mut used) = (VecDeque::new(), std::collections::BTreeSet::new());
        let mut fresh = 0..12;
        for op in ops {
            match op {
                SlabOp::Insert => {
                    let expected = free.pop_front().or_else(|| fresh.next());
                    prop_assert_eq!(list.acquire(), expected);
                    used.extend(expected);
                }
                SlabOp::RemoveFirst(i) => {
                    let held = used.remove(&i);
                    if held { free.push_front(i); }
                    prop_assert_eq!(list.release_first(i), held);
                }
                SlabOp::RemoveLast(i) => {
                    let held = used.remove(&i);
                    if held { free.push_back(i); }
                    prop_assert_eq!(list.release_last(i), held);
                }
            }
            prop_assert_eq!(list.len() as usize, used.len());
            for i in 0..14 {
                prop_assert_eq!(list.is_used(i), used.contains(&i));
            }
        }
    }

    #[test]
    fn slab_against_a_map(ops in prop::collection::vec(slab_op(), 0..200)) {
        let mut slab = Slab::new(12);
        let mut model = BTreeMap::new();
        for (value, op) in ops.into_iter().enumerate() {
            match op {
                SlabOp::Insert => match slab.insert(value) {
                    Some(i) => prop_assert_eq!(model.insert(i, value), None),
                    None => prop_assert_eq!(model.len(), 12),
                },
                SlabOp::RemoveFirst(i) | SlabOp::RemoveLast(i) => prop_assert_eq!(slab.remove(i), model.remove(&i)),
            }
            prop_assert_eq!(slab.len() as usize, model.len());
            for i in 0..14 {
                prop_assert_eq!(slab.get(i), model.get(&i));
                prop_assert_eq!(slab.get_mut(i), model.get_mut(&i));
                prop_assert_eq!(slab.contains(i), model.contains_key(&i));
            }
        }
    }
}

impl Links for Vec<Link> {
    fn link(&mut self, index: u32) -> &mut Link {
        &mut self[index as usize]
    }
}

#[derive(Clone, Debug)]
enum ListOp {
    Back(u32),
    Front(u32),
    Pop,
    Remove(u32),
}

fn list_op() -> impl Strategy<Value = ListOp> {
    prop_oneof![
        (0..8u32).prop_map(ListOp::Back),
        (0..8u32).prop_map(ListOp::Front),
        Just(ListOp::Pop),
        (0..8u32).prop_map(ListOp::Remove),
    ]
}

proptest! {
    /// Two lists through the same records: what is in one stays out of the other.
    #[test]
    fn lists_against_queues(ops in prop::collection::vec((0..2usize, list_op()), 0..200)) {
        let mut links: Vec<Link> = std::vec![Link::default(); 8];
        let mut lists = [List::default(); 2];
        let mut model = [VecDeque::new(), VecDeque::new()];
        for (which, op) in ops {
            let linked = |model: &[VecDeque<u32>; 2], i| model.iter().any(|m| m.contains(&i));
            match op {
                ListOp::Back(i) => {
                    let fresh = !linked(&model, i);
                    if fresh { model[which].push_back(i); }
                    prop_assert_eq!(lists[which].push_back(&mut links, i), fresh);
                }
                ListOp::Front(i) => {
                    let fresh = !linked(&model, i);
                    if fresh { model[which].push_front(i); }
                    prop_assert_eq!(lists[which].push_front(&mut links, i), fresh);
                }
                ListOp::Pop => prop_assert_eq!(lists[which].pop_front(&mut links), model[which].pop_front()),
                ListOp::Remove(i) => {
                    // A record is removed through the list it is in; through any if it is in none.
                    let which = model.iter().position(|m| m.contains(&i)).unwrap_or(which);
                    let held = linked(&model, i);
                    model[which].retain(|&x| x != i);
                    prop_assert_eq!(lists[which].remove(&mut links, i), held);
                }
            }
            for (list, model) in lists.iter().zip(&model) {
                prop_assert_eq!(list.is_empty(), model.is_empty());
                let forward: Vec<u32> = core::iter::successors(list.front(), |&i| links[i as usize].next()).collect();
                let mut backward: Vec<u32> =
                    core::iter::successors(list.back(), |&i| links[i as usize].prev()).collect();
                backward.reverse();
                prop_assert_eq!(&forward, &Vec::from(model.clone()));
                prop_assert_eq!(&backward, &forward);
            }
            for i in 0..8 {
                prop_assert_eq!(lists[0].contains(&mut links, i), linked(&model, i));
            }
        }
    }
}
