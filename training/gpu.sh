#!/bin/sh
# The whole model on an accelerator within some minutes, by one command; nothing is fetched.
#
#     gpu.sh MINUTES OUT [DEVICE] [PRESET]      for example   sh training/gpu.sh 9 "$OUT"      or, to try it,  gpu.sh 2 /tmp/out cpu tiny
#
# Needs training/build/sprites.npz, and diffusers: installed, or as a wheel in training/build/*.whl. Trains the denoiser with all cores
# drawing (and before it autoencoder and reader, where the package lacks them; set SHARE to 0.55 then), prints the effect table, and leaves the
# pipeline in OUT/parts as parts of at most 15 MiB (join: cat OUT/parts/FILE.* > FILE). Parts that lie in the package are not trained
# again: vae (with trained/patches.safetensors), text_encoder and tokenizer.
set -eu
minutes=$1 out=$2 device=${3:-cuda} preset=${4:-gpu}
cd "$(dirname "$0")"
python=${PYTHON:-python3} cores=$(nproc) work=$out/work
mkdir -p "$work" "$out/parts"
$python -c "import diffusers" 2> /dev/null || $python -m pip install -q --no-deps --no-index build/*.whl
shipped=../src/headwise/emoji/model
for part in $shipped/vae $shipped/text_encoder $shipped/tokenizer trained/*.safetensors trained/*.json; do
  [ ! -e "$part" ] || cp -r "$part" "$work/"
done
[ "$device" = cpu ] && workers=0 threads=1 || { workers=$((cores - 1)); threads=4; }
run="--sprites build/sprites.npz --work $work --device $device --workers $workers --threads $threads"
part() { awk "BEGIN { print $minutes * $1 }"; }

[ -d "$work/vae" ] || $python autoencoder.py $run --minutes "$(part 0.2)" --batch "${BATCH_AUTOENCODER:-128}"
[ -d "$work/text_encoder" ] || $python reader.py $run --minutes "$(part 0.1)" --batch "${BATCH_READER:-512}"
$python denoiser.py $run --minutes "$(part "${SHARE:-0.85}")" --preset "$preset" ${DENOISER:-}
(cd "$work/model" && find . -type f | while read -r file; do
  split -b 15M -d "$file" "$out/parts/$(echo "${file#./}" | tr / +)."
done)
PYTHONPATH=${HEADWISE:-../src} $python effect.py --model "$work/model" --out "$out/effect.json" --threads "$cores" ${EFFECT:-}
cp "$work"/*.json "$out/"
rm -rf "$work"
