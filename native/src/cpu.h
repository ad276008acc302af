/* The best instruction level this machine runs; native.cpu asks once, at import. */
#ifndef NATIVE_CPU_H
#define NATIVE_CPU_H

int cpu_best(void);

#endif
