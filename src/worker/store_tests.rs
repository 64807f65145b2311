use super::*;
use crate::graph::GraphId;
use proptest::prelude::*;

fn task(index: u32) -> TaskId {
    TaskId { graph: GraphId(1), index }
}

fn value(seed: u8, nbytes: usize) -> Value {
    Value::bytes(vec![seed; nbytes])
}

/// A store with room for 100 bytes, and the directory that must outlive it.
fn store() -> (Store, tempfile::TempDir) {
    let base = tempfile::tempdir().unwrap();
    let spill = SpillDir::open(base.path(), "w", 1).unwrap();
    (Store::new(Limits { target: 100, pause: 200 }, Some(spill)), base)
}

fn files(store: &Store) -> usize {
    std::fs::read_dir(store.spill.as_ref().unwrap().path()).unwrap().count()
}

#[test]
fn beyond_the_target_the_least_recently_used_value_goes_to_disk_and_comes_back() {
    let (store, _base) = store();
    for i in 0..3 {
        store.insert(task(i), value(i as u8, 40));
    }
    assert_eq!(store.get(task(0)), Found::Here(value(0, 40)), "a use: task 1 is the oldest now");
    assert_eq!(store.pressure(0), Pressure::Spilling);
    let relief = store.relieve();
    assert_eq!((relief.values, relief.nbytes, relief.error.is_none()), (1, 40, true));
    assert_eq!(store.get(task(1)), Found::Spilled);
    assert_eq!(store.held(), Held { values: 3, memory: 80, disk: 40 });
    assert_eq!(store.pressure(0), Pressure::Normal);

    assert_eq!(store.load(task(1)).unwrap(), Some(value(1, 40)));
    assert_eq!(store.held(), Held { values: 3, memory: 120, disk: 40 });
    store.check();
    // Now 2 is the oldest; then 1 would go again without being written again.
    store.relieve();
    assert_eq!((store.get(task(2)), files(&store)), (Found::Spilled, 2));
    store.check();
}

#[test]
fn freeing_removes_the_file_and_dropping_the_store_the_directory() {
    let (store, base) = store();
    store.insert(task(0), value(0, 150));
    store.relieve();
    assert_eq!((store.get(task(0)), files(&store)), (Found::Spilled, 1));
    assert!(store.free(task(0)) && !store.free(task(0)));
    assert_eq!((files(&store), store.get(task(0))), (0, Found::Absent));
    assert_eq!(store.load(task(0)).unwrap(), None);
    store.check();
    drop(store);
    assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
}

#[test]
fn a_value_that_cant_be_written_stays_in_memory() {
    let (store, _base) = store();
    std::fs::remove_dir(store.spill.as_ref().unwrap().path()).unwrap();
    store.insert(task(0), value(7, 150));
    let relief = store.relieve();
    assert_eq!((relief.values, relief.nbytes), (0, 0));
    assert!(relief.error.unwrap().to_string().contains("jobq-spill"));
    assert_eq!(store.get(task(0)), Found::Here(value(7, 150)));
    assert!(store.relieve().error.is_none(), "the disk is left alone for some time");
    store.check();
}

#[test]
fn a_file_that_changed_is_an_error_and_never_other_bytes() {
    let (store, _base) = store();
    store.insert(task(0), value(7, 150));
    store.relieve();
    let dir = store.spill.as_ref().unwrap().path();
    let file = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = store.load(task(0)).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(store.holds(task(0)));
    assert!(store.free(task(0)));
}

#[test]
fn pausing_ends_only_well_below_the_limit() {
    let (store, _base) = store();
    let at = |bytes| store.pressure(bytes);
    assert_eq!(
        [at(199), at(200), at(199), at(151)],
        [Pressure::Normal, Pressure::Paused, Pressure::Paused, Pressure::Paused]
    );
    assert_eq!([at(150), at(199)], [Pressure::Normal, Pressure::Normal]);
}

#[test]
fn without_a_directory_all_stays_in_memory() {
    let store = Store::new(Limits { target: 10, pause: 1000 }, None);
    store.insert(task(0), value(1, 150));
    assert_eq!(store.pressure(0), Pressure::Normal);
    assert_eq!(store.relieve().values, 0);
    assert_eq!(store.load(task(0)).unwrap(), Some(value(1, 150)));
}

#[test]
fn threads_that_spill_load_and_free_at_once_lose_nothing() {
    let (store, _base) = store();
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..200u32 {
                    let own = task(thread * 1000 + round);
                    store.insert(own, value(round as u8, 30));
                    store.relieve();
                    assert_eq!(store.load(own).unwrap(), Some(value(round as u8, 30)));
                    if round % 3 == 0 {
                        assert!(store.free(own));
                    }
                }
            });
        }
    });
    store.check();
    let held = store.tasks();
    assert_eq!(held.len(), 4 * 133);
    for (task, _) in held {
        assert_eq!(store.load(task).unwrap(), Some(value((task.index % 1000) as u8, 30)));
        assert!(store.free(task));
    }
    assert_eq!((files(&store), store.held()), (0, Held::default()));
}

#[test]
fn a_value_that_is_replaced_while_it_is_read_never_comes_back() {
    let (store, _base) = store();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                store.load(task(0)).unwrap();
            }
        });
        for round in 0..600u32 {
            let value = value(round as u8, 150);
            store.insert(task(0), value.clone());
            store.relieve();
            store.insert(task(0), value.clone());
            std::thread::yield_now();
            assert_eq!(store.load(task(0)).unwrap(), Some(value));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    store.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_done_a_held_value_is_what_was_inserted_last(
        steps in prop::collection::vec((0..5u8, 0..6u32, 0..90usize), 1..60)
    ) {
        let (store, _base) = store();
        let mut model = std::collections::BTreeMap::new();
        for (i, (what, index, nbytes)) in steps.into_iter().enumerate() {
            match what {
                0 | 1 => {
                    store.insert(task(index), value(i as u8, nbytes));
                    model.insert(index, value(i as u8, nbytes));
                }
                2 => prop_assert_eq!(store.free(task(index)), model.remove(&index).is_some()),
                3 => prop_assert_eq!(store.load(task(index)).unwrap(), model.get(&index).cloned()),
                _ => {
                    store.relieve();
                    prop_assert!(store.held().memory <= 100);
                }
            }
            store.check();
        }
        prop_assert_eq!(store.held().values, model.len());
    }
}
