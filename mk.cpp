#include "multiply.h"
#include <omp.h>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <algorithm>
#include <chrono>
using namespace CONVBIAS_INSTRUCTIONS;
template<class F> double best(F f,int reps){ std::vector<double> t; for(int i=0;i<40;i++){auto a=std::chrono::steady_clock::now(); for(int j=0;j<reps;j++) f(); t.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now()-a).count()/reps);} std::sort(t.begin(),t.end()); return t[8];}
int main(int argc,char**argv){
  int threads=argc>1?atoi(argv[1]):1;
  // peak
  auto peak=[&]{
    #pragma omp parallel num_threads(threads)
    { Vector s[12]; for(auto&v:s) v=Vector{}; Vector a=all(1.0001f),b=all(.9999f);
      for(int i=0;i<20000;i++){
        #pragma GCC unroll 12
        for(int k=0;k<12;k++) s[k]+=a*b;
        asm volatile(""::"x"(s[0]),"x"(s[1]),"x"(s[2]),"x"(s[3]),"x"(s[4]),"x"(s[5]),"x"(s[6]),"x"(s[7]),"x"(s[8]),"x"(s[9]),"x"(s[10]),"x"(s[11]));
        asm volatile("":"+x"(a),"+x"(b));
      }
      volatile float z=0; for(auto&v:s) z+=v[0]; } };
  double tp=best(peak,1); printf("peak %.1f GF/s\n",threads*20000.*12*LANES*2/tp/1e9);
  for(int64_t depth: {64,128,256,512,1024}) for (int blocks: {1,8}){
    // several blocks of rows with one panel, gathered
    std::vector<float*> xs(threads),ws(threads),ys(threads);
    for(int t=0;t<threads;t++){ xs[t]=(float*)aligned_alloc(4096,1<<20); ws[t]=(float*)aligned_alloc(4096,1<<20); ys[t]=(float*)aligned_alloc(4096,1<<20);
      for(int i=0;i<1<<18;i++) xs[t][i]=ws[t][i]=.5f; }
    auto run=[&](auto kind){
      #pragma omp parallel num_threads(threads)
      { int t=omp_get_thread_num();
        for(int rep=0;rep<200;rep++) for(int b=0;b<blocks;b++){
          Rows rows; rows.segments=1; Product to{ys[t]+b*ROWS*PANEL,PANEL,Ends{}};
          if constexpr(kind.value==0){ rows.step=0; rows.segment[0]={xs[t]+b*depth*ROWS,depth,0}; rows.pace=4; rows.next=ws[t]+depth*PANEL; multiply<true>(rows,0,ROWS,ws[t],PANEL,to,0);}
          else { rows.step=depth; rows.segment[0]={xs[t]+b*depth*ROWS,depth,0}; if(kind.value==2) rows.next=xs[t]; multiply(rows,0,ROWS,ws[t],PANEL,to,0);} } } };
    double f=threads*200.*blocks*depth*ROWS*PANEL*2/1e9;
    printf("depth %ld blocks %d: gathered %.1f rows %.1f fetch %.1f\n",(long)depth,blocks,f/best([&]{run(std::integral_constant<int,0>{});},1),f/best([&]{run(std::integral_constant<int,1>{});},1),f/best([&]{run(std::integral_constant<int,2>{});},1));
  }
}
