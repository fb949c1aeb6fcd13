#!/usr/bin/env bash
# Speaks the texts that examples/demo/speech.yaml trains on and benchmarks/demo_model.py tests with: synthetic/ of DATA.
#   bash examples/demo/speak.sh DATA
# Needs espeak-ng and `pip install 'bestow-edge[train]'`. A quarter of an hour on two cores.
# The same command goes on after a stop.
set -euo pipefail
cd "${1:?usage: bash examples/demo/speak.sh DATA}"

speak() { # OUT TEXTS OPTIONS...
  bestow-edge data speak "text/$2.tsv.gz" --out "synthetic/$1" "${@:3}"
}

speak en tatoeba_en-de.train --column en --translation de --count 16000
speak de tatoeba_en-de.train --column de --translation en --count 16000 --seed 1
speak toy_qa_en qa/toy_qa_en.train --column passage --lang en --count 1200
speak toy_qa_de qa/toy_qa_de.train --column passage --lang de --count 1200
speak squad_en qa/squad_short_en.train --column passage --lang en --count 1200

# sentences of the other splits, in voices that training never hears
for split in dev:200 test:500; do
  name=${split%:*} count=${split#*:}
  speak "en_$name" "tatoeba_en-de.$name" --column en --translation de --count "$count" --voices test
  speak "de_$name" "tatoeba_en-de.$name" --column de --translation en --count "$count" --voices test --seed 1
done
for language in en de; do
  speak "toy_qa_${language}_test" "qa/toy_qa_$language.test" --column passage --lang $language --count 200 --voices test
  speak "xquad_${language}_test" "qa/xquad_short_$language.test" --column passage --lang $language --voices test
done
