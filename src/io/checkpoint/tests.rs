use candle_core::safetensors::save;

use super::*;

#[test]
fn a_checkpoint_in_the_program_is_read_like_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.safetensors");
    let tensor = Tensor::new(&[[1f32, 2.0, 3.0]], &Device::Cpu).unwrap();
    save(&HashMap::from([("w", tensor)]), &file).unwrap();
    let bytes: &[u8] = std::fs::read(&file).unwrap().leak();
    for source in [Source::from(&file), Source::built_in("x", bytes)] {
        let checkpoint = Checkpoint::open(&source).unwrap();
        assert_eq!(checkpoint.names(), ["w"]);
        assert_eq!(checkpoint.shape("w"), Some(vec![1, 3]));
        assert_eq!(checkpoint.shape("v"), None);
        let read = checkpoint.load("w", &Device::Cpu).unwrap();
        assert_eq!(read.to_vec2::<f32>().unwrap(), [[1.0, 2.0, 3.0]]);
        assert!(checkpoint.load("v", &Device::Cpu).is_err());
        assert!(safetensors_metadata(&source).unwrap().is_empty());
    }
    assert!(Checkpoint::open(Source::built_in("x", &b"text"[..])).is_err());
}

#[test]
fn prefixes_are_found_among_sorted_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.safetensors");
    let tensor = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
    let names = ["b.weight", "a.b.weight", "ab.bias"];
    save(
        &HashMap::from(names.map(|name| (name, tensor.clone()))),
        &file,
    )
    .unwrap();
    let checkpoint = Checkpoint::open(&file).unwrap();
    assert_eq!(checkpoint.names(), ["a.b.weight", "ab.bias", "b.weight"]);
    for (prefix, found) in [
        ("", true),
        ("a", true),
        ("a.", true),
        ("a.b.weight", true),
        ("ab.", true),
        ("b.weight.", false),
        ("a.c", false),
        ("aa", false),
        ("c", false),
    ] {
        assert_eq!(checkpoint.has_prefix(prefix), found, "{prefix:?}");
    }
    let view = View::of("b.weight").rows(1..2);
    let views = BTreeMap::from([("c.weight".to_owned(), view)]);
    let seen = checkpoint.seen_as(views);
    assert_eq!(seen.shape("c.weight"), Some(vec![1]));
    assert!(seen.has_prefix("c.") && !seen.has_prefix("b."));
}

#[test]
fn headers_of_every_length_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.safetensors");
    for length in [123, 379, 128] {
        let mut header = br#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#.to_vec();
        header.resize(length, b' ');
        let bytes = [&(length as u64).to_le_bytes()[..], &header, &[7]].concat();
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(Checkpoint::open(&file).unwrap().names(), ["w"], "{length}");
    }
}

#[test]
fn a_pickle_that_would_fill_the_memory_or_the_stack_is_read_as_what_it_is() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.pt");
    let nested = [vec![b']'; 200_000], vec![b'a'; 199_999], b".".to_vec()].concat();
    let doubled = [&b")"[..], &b"q\x00h\x00\x86".repeat(40), b"."].concat();
    for pickle in [nested, doubled] {
        let stored = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        let mut archive = zip::ZipWriter::new(File::create(&file).unwrap());
        archive.start_file("x/data.pkl", stored).unwrap();
        archive.write_all(&pickle).unwrap();
        archive.finish().unwrap();
        let error = Checkpoint::open(&file).err().unwrap().to_string();
        let told = error.contains("x.pt") && error.contains("not a state dict");
        assert!(told, "{error}");
    }
}
