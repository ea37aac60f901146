#!/bin/sh
# Judge a denoiser's run by the effect table and by eye:  look.sh NAME [more options of effect.py]
name=$1; shift
$P effect.py --model build/$name/model --out build/$name/effect.json "$@" > build/$name/effect.txt 2> build/$name/errors.txt
$P sheet.py --sprites build/sprites.npz --model build/$name/model --judge $JUDGE --out build/$name > build/$name/sheet.txt 2>> build/$name/errors.txt
