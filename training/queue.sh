#!/bin/sh
# Trainings and their checks one after the other on one core: takes the first line of build/queue.txt, runs it, and so on.
# Lines may be appended or edited while it runs. What was run is kept in build/done.txt, its output in build/queue.log.
#     nohup setsid nice -n 5 ./queue.sh &
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
export OMP_NUM_THREADS=1 PYTHONPATH=${HEADWISE:-../src} P=${PYTHON:-../.venv/bin/python}
while true; do
  line=$(head -n 1 build/queue.txt)
  [ -z "$line" ] && { sleep 5; continue; }
  sed -i 1d build/queue.txt
  echo "$(date +%H:%M) $line" >> build/done.txt
  sh -c "$line" >> build/queue.log 2>&1
done
