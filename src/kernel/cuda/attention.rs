//! Multi-head attention: `attention.cu`.

#![expect(unsafe_code, reason = "launches on a GPU")]

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{
    gpu::{Argument, Gpu, Kernel, Module},
    heads::{self, Kind},
    operand::{aligned_rows, half_suffix, takes_rows},
};

/// Attention of queries (b, n, c), keys and values (b, m, c): (b, n, c). This and the other
/// functions return `None` where the kernels do not take the tensors.
pub fn attend(qkv: [&Tensor; 3], heads: usize) -> Result<Option<Tensor>> {
    attention(qkv, heads, Maps::Own)
}

/// [`attend`] with keys up to each query's position.
pub fn attend_causally(qkv: [&Tensor; 3], heads: usize) -> Result<Option<Tensor>> {
    attention(qkv, heads, Maps::Causal)
}

/// [`attend`] with the maps of the batch's first row.
pub fn attend_through_first(qkv: [&Tensor; 3], heads: usize) -> Result<Option<Tensor>> {
    attention(qkv, heads, Maps::First)
}

/// The maps that are applied to the values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maps {
    Own,
    Causal,
    First,
}

/// Sizes of an attention.
#[derive(Clone, Copy)]
struct Size {
    b: usize,
    n: usize,
    m: usize,
    /// Heads times their width.
    c: usize,
    heads: usize,
}

impl Size {
    /// The sizes, if queries, keys and values match.
    fn of([q, k, v]: [&Tensor; 3], heads: usize, maps: Maps) -> Option<Self> {
        let (q, k, v) = (q.dims3().ok()?, k.dims3().ok()?, v.dims3().ok()?);
        let ((_, n, c), (b, m, _)) = (q, v);
        let rows = [q.0, k.0]
            .iter()
            .all(|&rows| rows == b || maps == Maps::First);
        let matches = rows && (k.1, k.2) == (m, c) && v.2 == c && c.is_multiple_of(heads);
        matches.then_some(Self { b, n, m, c, heads })
    }

    /// The factor of the scores.
    fn scale(self) -> Argument {
        Argument::Float(((self.c / self.heads) as f64).sqrt().recip() as f32)
    }

    /// The numbers of queries and of keys.
    fn lengths(self) -> [Argument; 2] {
        [self.n, self.m].map(Argument::int)
    }
}

/// Steps from batch to batch and from row to row of x (b, n, c).
fn steps(x: &Tensor) -> [Argument; 2] {
    [0, 1].map(|axis| Argument::Long(x.stride()[axis] as i64))
}

/// Queries and keys on a GPU that has a kernel for them.
struct Heads {
    gpu: Arc<Gpu>,
    q: Tensor,
    k: Tensor,
    size: Size,
    suffix: &'static str,
}

impl Heads {
    /// Checks that the kernels take queries and keys, in a place of that size.
    fn of(qk: [&Tensor; 2], size: Option<Size>) -> Result<Option<Self>> {
        let (Some(size), Some(suffix)) = (size, half_suffix(qk[0].dtype())) else {
            return Ok(None);
        };
        let [q, k] = [aligned_rows(qk[0])?, aligned_rows(qk[1])?];
        if !takes_rows(q.dtype(), [&q, &k]) {
            return Ok(None);
        }
        Ok(Gpu::of(q.device())?.map(|gpu| Self {
            gpu,
            q,
            k,
            size,
            suffix,
        }))
    }

    fn kernel(&self, name: &str, end: &str, kind: Kind) -> Kernel {
        Kernel {
            module: Module::Attention,
            name: format!("{name}_{}_d{}{end}", self.suffix, kind.width),
            threads: kind.threads,
            shared: kind.shared,
        }
    }

    fn attention(&self, v: &Tensor, maps: Maps, kind: Kind) -> Result<Tensor> {
        let Self { gpu, size, .. } = self;
        let kernel = self.kernel("attention", &format!("_q{}", kind.queries), kind);
        let grid = [size.n.div_ceil(kind.queries), size.heads, size.b];
        let causal = Argument::Int(i32::from(maps == Maps::Causal));
        let own = [&self.q, &self.k].map(|x| match (maps, steps(x)) {
            (Maps::First, [_, row]) => [Argument::Long(0), row], // the first row's, in every row
            (_, steps) => steps,
        });
        let [n, c] = [size.n, size.c].map(|size| size as i64);
        let output = [Argument::Long(n * c), Argument::Long(c)];
        let strides = [own[0], own[1], steps(v), output].concat();
        gpu.filled((size.b, size.n, size.c), v.dtype(), |y| {
            gpu.with([&self.q, &self.k, v].map(Some), |[q, k, v]| {
                let (sizes, last) = (size.lengths(), [size.scale(), causal]);
                let arguments = [&[q, k, v, y], &sizes[..], &strides, &last].concat();
                // SAFETY: attention_T_dD_qQUERIES(q, k, v, y, n, m, the steps from batch to batch
                // and from row to row of each, scale, causal), with the shapes that `Size::of`
                // has checked.
                unsafe { gpu.launch(&kernel, grid, &arguments) }
            })
        })
    }

    fn maps(&self, kind: Kind) -> Result<Tensor> {
        let Self { gpu, size, .. } = self;
        let kernel = self.kernel("attention_maps", "", kind);
        let grid = [size.n.div_ceil(kind.queries), size.heads, size.b];
        let shape = (size.b, size.heads, size.n, size.m);
        let strides = [steps(&self.q), steps(&self.k)].concat();
        gpu.filled(shape, self.q.dtype(), |maps| {
            gpu.with([&self.q, &self.k].map(Some), |[q, k]| {
                let (sizes, last) = (size.lengths(), [size.scale()]);
                let arguments = [&[q, k, maps], &sizes[..], &strides, &last].concat();
                // SAFETY: attention_maps_T_dD(q, k, maps, n, m, the steps of q and k, scale), with
                // the shapes that `Size::of` has checked and maps (b, heads, n, m).
                unsafe { gpu.launch(&kernel, grid, &arguments) }
            })
        })
    }
}

fn attention(qkv: [&Tensor; 3], heads: usize, maps: Maps) -> Result<Option<Tensor>> {
    let [q, k, v] = [qkv[0], qkv[1], &aligned_rows(qkv[2])?];
    if !takes_rows(q.dtype(), [v]) {
        return Ok(None);
    }
    let Some(heads) = Heads::of([q, k], Size::of([q, k, v], heads, maps))? else {
        return Ok(None);
    };
    let Size { b, n, c, .. } = heads.size;
    let rows = b * heads.size.heads;
    let multiprocessors = heads.gpu.multiprocessors();
    match heads::attention(c / heads.size.heads, [rows, n], multiprocessors) {
        Some(kind) => heads.attention(v, maps, kind).map(Some),
        None => Ok(None),
    }
}

/// The attention maps (b, heads, n, m) of queries (b, n, c) and keys (b, m, c).
pub fn attention_maps(q: &Tensor, k: &Tensor, heads: usize) -> Result<Option<Tensor>> {
    let Some(heads) = Heads::of([q, k], Size::of([q, k, k], heads, Maps::Own))? else {
        return Ok(None);
    };
    match heads::maps(heads.size.c / heads.size.heads) {
        Some(kind) => heads.maps(kind).map(Some),
        None => Ok(None),
    }
}
