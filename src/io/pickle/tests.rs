//! Archives as PyTorch writes them, from their bytes.

use std::{fs::File, io::Write};

use tempfile::TempDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::*;

/// Instructions that make a string.
fn text(text: &str) -> Vec<u8> {
    let length = (text.len() as u32).to_le_bytes();
    [b"X", &length[..], text.as_bytes()].concat()
}

/// Instructions that make a tuple of numbers below 256.
fn sizes(sizes: &[u8]) -> Vec<u8> {
    let each = sizes.iter().flat_map(|&size| [b'K', size]);
    [b"(".to_vec(), each.collect(), b"t".to_vec()].concat()
}

/// Instructions that make a dictionary.
fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items = items.iter();
    let items: Vec<_> = items
        .flat_map(|(name, value)| [text(name), value.clone()])
        .collect();
    [b"}(".to_vec(), items.concat(), b"u".to_vec()].concat()
}

/// Instructions that rebuild a tensor of storage 0.
fn tensor(class: &str, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{class}\n").into_bytes(),
        [text("0"), text("cpu")].concat(),
        vec![b'K', 1, b't', b'Q', b'K', offset],
        [sizes(shape), sizes(strides)].concat(),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

/// A file whose storage 0 has these bytes.
fn file(pickle: &[u8], storage: &[u8]) -> (TempDir, Result<StateDict>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.pt");
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut archive = ZipWriter::new(File::create(&file).unwrap());
    let pickle = [b"\x80\x02", pickle, b"."].concat();
    for (name, bytes) in [("x/data.pkl", &pickle[..]), ("x/data/0", storage)] {
        archive.start_file(name, stored).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
    let opened = StateDict::open(&file);
    (folder, opened)
}

fn refusal(pickle: &[u8]) -> String {
    let (_, opened) = file(pickle, &[0; 64]);
    opened
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

fn floats(count: u8) -> Vec<u8> {
    (0..count)
        .flat_map(|i| f32::from(i).to_le_bytes())
        .collect()
}

fn read(opened: &StateDict, name: &str) -> Vec<f32> {
    let tensor = opened.load(name).unwrap().unwrap();
    let flat = tensor.flatten_all().unwrap();
    flat.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

#[test]
fn strided_tensors_and_views_become_contiguous() {
    // numpy: x = arange(24); as_strided(x, (2, 3, 2, 2), (12, 1, 6, 3)) is channels-last,
    // x[:6].reshape(2, 3).T, and x[5:11:2]; the last repeats x[3].
    let pickle = dict(&[
        (
            "last",
            tensor("FloatStorage", 0, &[2, 3, 2, 2], &[12, 1, 6, 3]),
        ),
        ("turned", tensor("FloatStorage", 0, &[3, 2], &[1, 3])),
        ("part", tensor("FloatStorage", 5, &[3], &[2])),
        ("spread", tensor("FloatStorage", 3, &[4], &[0])),
    ]);
    let (_folder, opened) = file(&pickle, &floats(24));
    let opened = opened.unwrap();
    assert_eq!(read(&opened, "last")[..6], [0., 3., 6., 9., 1., 4.]);
    assert_eq!(opened.shape("last"), Some(&[2, 3, 2, 2][..]));
    assert_eq!(read(&opened, "turned"), [0., 3., 1., 4., 2., 5.]);
    assert_eq!(read(&opened, "part"), [5., 7., 9.]);
    assert_eq!(read(&opened, "spread"), [3.; 4]);
}

#[test]
fn types_are_kept_or_named() {
    let pickle = dict(&[
        ("int", tensor("IntStorage", 1, &[2], &[1])),
        ("short", tensor("ShortStorage", 0, &[2], &[1])),
        ("char", tensor("CharStorage", 0, &[2], &[1])),
        ("a.alpha", b"G\x40\x10\0\0\0\0\0\0".to_vec()), // 4.0
        ("epoch", b"K\x07".to_vec()),
    ]);
    let storage: Vec<u8> = [1_i32, -2, 3]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let (_folder, opened) = file(&pickle, &storage);
    let opened = opened.unwrap();
    assert_eq!(opened.dtype("int"), Some(Ok(DType::I32)));
    assert_eq!(read(&opened, "int"), [-2., 3.]);
    assert_eq!(opened.dtype("short"), Some(Ok(DType::I16)));
    assert_eq!(read(&opened, "short"), [1., 0.]);
    let fault = opened.load("char").unwrap().unwrap_err();
    assert!(fault.contains("torch.CharStorage"), "{fault}");
    assert_eq!(read(&opened, "a.alpha"), [4.]);
    assert_eq!(
        opened.names().count(),
        4,
        "a plain number without a layer is a note"
    );
}

#[test]
fn a_state_dict_is_preferred_to_what_is_beside_it() {
    let weight = || tensor("FloatStorage", 0, &[2], &[1]);
    let pickle = dict(&[
        ("global_step", tensor("LongStorage", 0, &[], &[])),
        ("state_dict", dict(&[("w", weight())])),
        ("optimizer_states", dict(&[("m", weight())])),
    ]);
    let (_folder, opened) = file(&pickle, &floats(2));
    let opened = opened.unwrap();
    assert_eq!(opened.names().collect::<Vec<_>>(), ["w"]);
    assert_eq!(read(&opened, "w"), [0., 1.]);
}

#[test]
fn tensors_that_cannot_be_read_are_errors_that_name_them() {
    let weight = || tensor("FloatStorage", 0, &[2], &[1]);
    let module = [
        b"ctorch.nn.modules.linear\nLinear\n)\x81".to_vec(),
        dict(&[("_parameters", dict(&[("weight", weight())]))]),
        b"b".to_vec(),
    ]
    .concat();
    let sparse = [
        &b"ctorch._utils\n_rebuild_sparse_tensor\n("[..],
        &weight(),
        b"tR",
    ]
    .concat();
    let array = b"cnumpy._core.multiarray\n_reconstruct\n)RK\x01b".to_vec();
    for (pickle, told) in [
        (module.clone(), "torch.nn.modules.linear.Linear"),
        (
            dict(&[("layer", module)]),
            "\"layer\" is torch.nn.modules.linear.Linear",
        ),
        (
            dict(&[("w", weight()), ("model", dict(&[("v", weight())]))]),
            "\"model\" is a collection",
        ),
        (dict(&[("s", sparse)]), "_rebuild_sparse_tensor"),
        (
            dict(&[("w", weight()), ("n", array)]),
            "\"n\" is a NumPy array",
        ),
        (weight(), "without a name"),
        (dict(&[("epoch", b"K\x01".to_vec())]), "no tensors"),
        (dict(&[("w", weight()), ("w", weight())]), "\"w\" twice"),
        (b"]".to_vec(), "not a state dict"),
    ] {
        let error = refusal(&pickle);
        assert!(
            error.contains("x.pt") && error.contains(told),
            "{told}: {error}"
        );
    }
}

#[test]
fn descriptions_that_many_tensors_share_are_bounded() {
    for (class, shape) in [("FloatStorage", 17), (&"x".repeat(200)[..], 1)] {
        let sizes = vec![1; shape];
        let error = refusal(&dict(&[("w", tensor(class, 0, &sizes, &sizes))]));
        assert!(error.contains("\"w\""), "{error}");
    }
}

#[test]
fn sizes_of_strangers_are_bounded() {
    let huge = [255; 9];
    let pickle = dict(&[
        ("beyond", tensor("FloatStorage", 3, &[2], &[1])),
        ("far", tensor("FloatStorage", 0, &[2], &[255])),
        ("large", tensor("FloatStorage", 0, &huge, &[0; 9])),
    ]);
    let (_folder, opened) = file(&pickle, &floats(4));
    let opened = opened.unwrap();
    for name in ["beyond", "far", "large"] {
        assert!(opened.load(name).unwrap().is_err(), "{name}");
    }
}
