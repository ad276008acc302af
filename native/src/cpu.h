/* The best instruction level this machine runs; native.cpu asks once, at import. */
#ifndef NATIVE_CPU_H
#define NATIVE_CPU_H

int cpu_best(void);

/* Whether it has the SHA instructions of x86-64, which no level stands for. */
int cpu_has_sha(void);

#endif
